"""Explain metrics from ``metrics.yaml``: group, chart, unit and a line of text.

Reports group, overlay and sort metrics as that file does.
"""

from __future__ import annotations

import functools
import re
from importlib import resources
from typing import NamedTuple

import yaml

REWARD, HACKING, OTHER = "Reward", "Is the reward real?", "Other"
WORD = r"[A-Za-z0-9]+(?:_[A-Za-z0-9]+)*?"


class Explanation(NamedTuple):
    """The explanation of one metric, or of several with names of one pattern."""

    name: str
    """As in the file, with placeholders."""
    group: str
    title: str
    """The chart's title; metrics with the same title are drawn together."""
    unit: str
    text: str
    better: str
    """``higher``, ``lower``, or empty if neither is better in itself."""
    order: int
    """The position in the file."""
    together: bool = False
    """Whether a comparison of runs too draws all metrics with this title in one chart."""


@functools.cache
def explain(name: str) -> Explanation:
    """Return the explanation of the metric ``name``; one that is not in the file gets its own chart in ``OTHER``.

    An exact entry takes precedence over one with placeholders; of those, the one with most text of its own.
    """
    for pattern, known in _patterns():
        match = pattern.fullmatch(name)
        if match:
            words = match.groupdict()
            return known._replace(title=_fill(known.title, words), text=_fill(known.text, words))
    return Explanation(name, OTHER, name, "", "", "", len(_patterns()))


def explanations() -> list[Explanation]:
    """Return all entries of the file."""
    return [known for _, known in _patterns()]


@functools.cache
def groups() -> dict[str, str]:
    """Return the groups in order, each with its description."""
    return {group: content["about"] for group, content in _content().items()}


@functools.cache
def _patterns() -> list[tuple[re.Pattern[str], Explanation]]:
    """Return all entries, those without placeholders first, then those with most text besides placeholders."""
    found = []
    for group, content in _content().items():
        for chart in content["charts"]:
            for name, entry in chart["metrics"].items():
                better = entry.get("better", "")
                known = Explanation(name, group, chart["title"], chart["unit"], entry["text"], better, len(found))
                known = known._replace(together=chart.get("together", False))
                found.append((_pattern(name), known))
    return sorted(found, key=lambda entry: ("{" in entry[1].name, -len(re.sub(r"\{\w+\}", "", entry[1].name))))


@functools.cache
def _content() -> dict[str, dict]:
    text = resources.files("alignment.telemetry.report").joinpath("metrics.yaml").read_text("utf-8")
    # The loader in C is eight times faster; not every build of PyYAML has it.
    return yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def _pattern(name: str) -> re.Pattern[str]:
    """Return a pattern that matches ``name`` with a word for each placeholder."""
    parts = re.split(r"\{(\w+)\}", name)
    return re.compile("".join(f"(?P<{part}>{WORD})" if i % 2 else re.escape(part) for i, part in enumerate(parts)))


def _fill(template: str, words: dict[str, str]) -> str:
    return re.sub(r"\{(\w+)\}", lambda match: words[match[1]].replace("_", " "), template)
