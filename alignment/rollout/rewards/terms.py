"""Terms added to a score: for missing ends, length and format. Small pure functions, registered by name.

They are added after the sources' scores were normalised, weighted and added up, and before ``clip_range_score``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from alignment.records import Rollout


class Judgement(NamedTuple):
    """What a term may look at."""

    scores: np.ndarray
    """[N] float32, the sum of the sources."""
    lengths: np.ndarray
    """[N] int64, tokens of each response."""
    limits: np.ndarray
    """[N] int64, the most tokens that each response could have."""
    stopped: np.ndarray
    """[N] bool, True if the response ended by itself, not at its limit."""
    texts: Callable[[], Sequence[str]]
    """Returns the responses as text."""


Term = Callable[..., np.ndarray]
"""Returns what is added to each score, [N]; keyword arguments are its numbers."""


def missing_eos(judged: Judgement, *, penalty: float) -> np.ndarray:
    """Subtract ``penalty`` from responses that did not end by themselves (TRL's ``missing_eos_penalty``)."""
    return np.where(judged.stopped, 0.0, -penalty)


def stop_properly(judged: Judgement, *, coef: float) -> np.ndarray:
    """Scale the score of responses that did not end by themselves by ``coef``; a negative score is scaled too."""
    return np.where(judged.stopped, 0.0, (coef - 1) * judged.scores)


def overlong(judged: Judgement, *, buffer: int, factor: float) -> np.ndarray:
    """Subtract up to ``factor`` from responses within the last ``buffer`` tokens before their limit.

    This is DAPO's soft overlong punishment (Yu et al. 2025, equation 13).
    """
    excess = judged.lengths - (judged.limits - buffer)
    return -np.clip(excess, 0, buffer) / buffer * factor


def length(judged: Judgement, *, coeff: float) -> np.ndarray:
    """Subtract ``coeff`` for every token of the response."""
    return -coeff * judged.lengths


def matches_format(judged: Judgement, *, pattern: str, weight: float) -> np.ndarray:
    """Add ``weight`` to responses that match the regular expression from end to end; a dot matches any character."""
    compiled = re.compile(pattern, re.DOTALL)
    return np.array([weight if compiled.fullmatch(text) else 0.0 for text in judged.texts()])


def has_tags(judged: Judgement, *, tags: Sequence[str], weight: float) -> np.ndarray:
    """Add ``weight`` to responses that open and close each of ``tags`` once, in this order, one after the other."""
    marks = [mark for tag in tags for mark in (f"<{tag}>", f"</{tag}>")]
    return np.array([weight if _holds_in_order(text, marks) else 0.0 for text in judged.texts()])


def _holds_in_order(text: str, marks: Sequence[str]) -> bool:
    places = [text.find(mark) for mark in marks]
    return all(text.count(mark) == 1 for mark in marks) and places == sorted(places)


TERMS: Mapping[str, Term] = MappingProxyType(
    {
        "stop_properly": stop_properly,
        "missing_eos": missing_eos,
        "overlong": overlong,
        "length": length,
        "format": matches_format,
        "tags": has_tags,
    }
)
"""All terms by name, in the order in which they are logged."""


@dataclass(frozen=True, kw_only=True)
class ScoreTerms:
    """The terms of a run."""

    numbers: Mapping[str, Mapping[str, Any]]
    """Keyword arguments of each term that is added, by its name in ``TERMS``."""
    limits: Callable[[Rollout], np.ndarray]
    """Returns the most tokens that each response could have, [N]."""
    decode: Callable[[np.ndarray], str]

    def measure(self, rollout: Rollout, scores: np.ndarray) -> dict[str, np.ndarray]:
        """Return what each term adds to ``scores`` [N], in float32."""
        judged = Judgement(
            scores=scores,
            lengths=rollout.response_lengths,
            limits=self.limits(rollout),
            stopped=np.array([reason == "stop" for reason in rollout.finish_reasons]),
            texts=lambda: [self.decode(response) for response in rollout.responses],
        )
        return {
            name: TERMS[name](judged, **self.numbers[name]).astype(np.float32) for name in TERMS if name in self.numbers
        }
