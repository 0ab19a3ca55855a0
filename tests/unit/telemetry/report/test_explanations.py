"""Every metric that the package emits is explained, and nothing else is."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from alignment.telemetry.report.explanations import OTHER, explain, explanations, groups

NAME = re.compile(r"[a-z0-9_*]+/[a-z0-9_*]+")
NOT_METRICS = {
    "tokenizer/*": "data/sources/packing_generate.py: a file of the generated data",
    "rows/s": "data/encoded/build.py: shown while rows are encoded",
    "supervised/loss": "algorithms/supervised_losses.py: an objective reports it under its own name",
}
WORDS = {"side": "better", "model": "policy", "stage": "rollout", "phase": "update", "group": "tensor"}


def test_what_is_known_of_a_metric():
    loss = explain("sft/loss")
    assert (loss.group, loss.title, loss.unit, loss.better) == ("Loss and accuracy", "Loss", "nats", "lower")
    assert loss.text == "Cross-entropy of the target tokens, nats per token. Should fall and level off."


@pytest.mark.parametrize(
    ("name", "title", "start"),
    [
        ("memory/update_after_gib", "Memory left in use", "In use when the phase update ended."),
        ("traffic/update_tensor_mib", "Sent during update", "Sent to the processes of the group tensor during update"),
        ("memory/update_gib", "Peak memory", "Most memory in use at any time in the phase update."),
        ("eval/train_rewards_mean", "Mean score", "Mean score of as many answers of the training split as"),
        ("eval/worse_rewards_mean", "Mean score by side", "Mean score of the worse answers"),
        ("critic/gradient_norm", "Gradient norm", "Norm of the gradient of the critic before clipping."),
    ],
)
def test_names_that_are_built_from_words(name, title, start):
    assert explain(name).title == title
    assert explain(name).text.startswith(start)


def test_a_metric_that_is_not_known_is_a_chart_of_its_own_after_all_others():
    unknown = explain("mine/<b>")
    assert (unknown.group, unknown.title, unknown.text) == (OTHER, "mine/<b>", "")
    assert unknown.order > max(known.order for known in explanations())


def test_every_entry_is_complete_and_its_own():
    entries = explanations()
    for entry in entries:
        assert entry.text.endswith(".") and 20 < len(entry.text) <= 200, entry
        assert entry.unit and entry.title and entry.better in ("", "higher", "lower"), entry
        assert entry.group in groups()
        assert explain(fill(entry.name)).name == entry.name, f"{entry.name} is hidden by an entry before it"
    units = {}
    for entry in entries:
        assert units.setdefault((entry.group, entry.title), entry.unit) == entry.unit, f"one chart, two units: {entry}"


def test_every_metric_of_the_package_is_explained_and_every_explanation_has_its_metric(repo_root):
    """Names are read from the code: keys of dictionaries, with a star for what an f-string fills in."""
    emitted = {name for path in (repo_root / "alignment").rglob("*.py") for name in keys(path.read_text("utf-8"))}
    assert set(NOT_METRICS) <= emitted
    emitted -= set(NOT_METRICS)
    known = {entry.name for entry in explanations()}
    unexplained = {name for name in emitted if not any(meets(name, other) for other in known)}
    assert unexplained == set(), "add them to alignment/telemetry/report/metrics.yaml"
    left_over = {name for name in known if not any(meets(other, name) for other in emitted)}
    assert left_over == set(), "no code emits them: delete them from alignment/telemetry/report/metrics.yaml"


def test_how_names_are_read_from_code():
    code = 'm = {"a/b": 1, f"c/{x}_d": 2, "no slash": 3}\nm[f"{self.x}/e"] = 1\nm["f/g"] += 1\n'
    code += '{f"l/{k}": k for k in m}\nprint(m["h/i"], "j/k")\n'
    assert set(keys(code)) == {"a/b", "c/*_d", "*/e", "f/g", "l/*"}
    assert meets("*/gradient_norm", "{model}/gradient_norm") and meets("time/*_seconds", "time/{stage}_seconds")
    assert not meets("time/*_seconds", "time/{stage}_tokens") and not meets("a/b", "a/{x}_b")


def keys(source: str) -> Iterator[str]:
    """Yield the keys that ``source`` writes into dictionaries and that look like metrics."""
    for node in ast.walk(ast.parse(source)):
        written = node.keys if isinstance(node, ast.Dict) else [node.key] if isinstance(node, ast.DictComp) else []
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store):
            written = [node.slice]
        yield from (name for name in map(text_of, written) if NAME.fullmatch(name))


def text_of(node: ast.AST | None) -> str:
    """Return the text of a constant or an f-string, a star for each part that is filled in."""
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part) or "*" for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def fill(name: str) -> str:
    """Return the name of a metric that the entry ``name`` describes."""
    return re.sub(r"\{(\w+)\}", lambda match: WORDS[match[1]], name)


def meets(emitted: str, entry: str) -> bool:
    """Return whether what is ``emitted`` (stars for words) can be what ``entry`` (with placeholders) explains."""
    words = re.escape(emitted).replace(r"\*", r"[\w{}]*")
    return re.fullmatch(words, entry) is not None or ("*" not in emitted and explain(emitted).name == entry)
