"""Add up several sources of rewards, each with a weight, and keep the scores of each to log and to normalise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from alignment.errors import NotFiniteError, RewardError
from alignment.parallel.roles import RoleWork
from alignment.records import Rollout
from alignment.rollout.rewards.reward_normalization import RunningRewardNormalizer
from alignment.rollout.rewards.scorers import Scorer, Scores

_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True, kw_only=True)
class RewardSource:
    """One of several sources: any scorer, with its factor in the sum."""

    log_as: str
    """Its word in the names of metrics."""
    scorer: Scorer
    factor: float
    """Weight with its sign: negative for a cost."""
    normalize: Callable[[np.ndarray], np.ndarray] | None = None
    """Normalises its raw scores [n], and may update its statistics with them; None: they stay raw."""


class CombinedScorer(Scorer):
    """Scores with every source in order, on the same rollout; the reward is the sum of the weighted scores.

    A row that one source could not score has no reward; RewardError if all are such. Errors name the source.
    """

    def __init__(self, sources: Sequence[RewardSource]) -> None:
        self.sources = tuple(sources)

    def works(self, rollout: Rollout) -> list[RoleWork]:
        """See ``Scorer``; those of all sources, in order."""
        return [
            work._replace(action=partial(_naming, source, work.action))
            for source in self.sources
            for work in source.scorer.works(rollout)
        ]

    def read(self, results: Sequence[Any]) -> Scores:
        """See ``Scorer``; ``by_source`` of the result has the raw scores of each source."""
        found = {
            source.log_as: source.scorer.read([result]) for source, result in zip(self.sources, results, strict=True)
        }
        valid = np.ones(len(next(iter(found.values())).values), bool)
        for scores in found.values():
            valid &= True if scores.valid is None else scores.valid
        if not valid.any():
            failed = ", ".join(name for name, scores in found.items() if scores.valid is not None)
            raise RewardError(f"every row of the rollout has a source that failed ({failed}); nothing to learn from")
        by_source = {name: _with_gaps(scores) for name, scores in found.items()}
        raw = np.stack([scores.values for scores in found.values()], axis=1)
        notes = {f"{name}_{note}": rows for name, scores in found.items() for note, rows in scores.notes.items()}
        return Scores(self.add_up(raw), None if valid.all() else valid, by_source, notes)

    def normalize(self, raw: np.ndarray) -> np.ndarray:
        """Return the sum [n] of the weighted scores ``raw`` [n, sources], those of each source normalised if asked."""
        columns = [
            column if source.normalize is None else source.normalize(column)
            for source, column in zip(self.sources, raw.T, strict=True)
        ]
        return self.add_up(np.stack(columns, axis=1))

    def add_up(self, scores: np.ndarray) -> np.ndarray:
        """Return the weighted sum [n] float32 of ``scores`` [n, sources], added in float64."""
        total = np.zeros(len(scores), np.float64)
        for source, column in zip(self.sources, scores.T, strict=True):
            if source.factor:
                total += source.factor * column.astype(np.float64)
        bad = np.flatnonzero(~(np.abs(total) <= _LARGEST))
        if len(bad):
            names = ", ".join(source.log_as for source in self.sources)
            raise RewardError(f"the weighted sum of {names} is {total[bad[0]]} for row {bad[0]}: lower their weights")
        return total.astype(np.float32)

    def state(self) -> dict[str, list[float]]:
        """Return the running statistics of the sources that have them, by name."""
        return {name: normalizer.state() for name, normalizer in self._running().items()}

    def load_state(self, state: dict[str, list[float]]) -> None:
        """Restore what ``state`` returned."""
        for name, normalizer in self._running().items():
            if name in state:
                normalizer.load_state(state[name])

    def _running(self) -> dict[str, RunningRewardNormalizer]:
        kept = {source.log_as: source.normalize for source in self.sources}
        return {name: one for name, one in kept.items() if isinstance(one, RunningRewardNormalizer)}


def _naming(source: RewardSource, action: Callable[[], Any]) -> Any:
    """Return the result of ``action``, which ``source`` asks for; an error names the source."""
    try:
        return action()
    except NotFiniteError as error:
        raise NotFiniteError(f"source {source.log_as}: {error}", error.model, is_trained=False) from error


def _with_gaps(scores: Scores) -> np.ndarray:
    """Return the values [N] float32, NaN where the source failed."""
    return scores.values if scores.valid is None else np.where(scores.valid, scores.values, np.nan).astype(np.float32)
