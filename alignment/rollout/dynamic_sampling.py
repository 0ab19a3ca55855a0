"""Dynamic sampling: replace prompts whose responses all earn the same, from which nothing is learned.

Yu et al. 2025, "DAPO", section 3.2. As in verl and PaddleNLP, whole further rollouts are sampled and the prompts beyond
those needed are dropped, so that nothing is carried over to the next policy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from alignment.errors import UserError
from alignment.metrics import Metric
from alignment.records import Rollout
from alignment.telemetry import log
from alignment.telemetry.wording import counted


@dataclass(kw_only=True)
class DynamicSampling:
    """Collects judged rollouts of one policy until enough prompts have responses of different rewards."""

    max_batches: int
    """Rollouts that may be sampled for one."""
    _wanted: int = 0
    _kept: list[Rollout] = field(default_factory=list)
    _groups: list[int] = field(default_factory=list)
    """Informative groups of each rollout so far."""
    _sampled: list[np.ndarray] = field(default_factory=list)
    """Valid raw scores of each rollout so far."""
    _has_warned: bool = False

    def start(self, num_prompts: int) -> None:
        """Begin a rollout of ``num_prompts`` prompts."""
        self._wanted, self._kept, self._groups, self._sampled = num_prompts, [], [], []

    def add(self, rollout: Rollout) -> bool:
        """Keep the informative groups of a judged ``rollout``; tell whether no further one is to be sampled.

        UserError if none has been informative when the bound is reached.
        """
        informative = informative_rows(rollout)
        self._groups.append(len(np.unique(rollout.group_ids[informative])))
        self._sampled.append(rollout.raw_scores[rollout.valid_rows])
        self._kept.append(take_rows(rollout, np.flatnonzero(informative)))
        if sum(self._groups) < self._wanted and len(self._groups) < self.max_batches:
            return False
        if not sum(self._groups):
            raise UserError(self._describe_starvation(rollout))
        return True

    def finish(self) -> tuple[Rollout, dict[str, Metric]]:
        """Return the first informative groups, at most as many as prompts were wanted, and the metrics."""
        joined = join_rollouts([part for part, groups in zip(self._kept, self._groups, strict=True) if groups])
        first = np.unique(joined.group_ids)[: self._wanted]
        kept = take_rows(joined, np.flatnonzero(np.isin(joined.group_ids, first)))
        if len(first) < self._wanted and not self._has_warned:
            self._has_warned = True
            log.warn(
                f"dynamic_sampling: after {counted(self.max_batches, 'rollout')} (max_gen_batches) only "
                f"{len(first)} of {self._wanted} prompts have responses of different rewards; updates are made from "
                "those (rollout/kept_groups shows the number from now on)"
            )
        return kept, {
            "rollout/gen_batches": Metric(float(len(self._groups))),
            "rollout/sampled_groups": Metric(float(len(self._groups) * self._wanted)),
            "rollout/kept_groups": Metric(float(len(first))),
            "rollout/sampled_reward": Metric(float(np.concatenate(self._sampled).mean())),
        }

    def _describe_starvation(self, rollout: Rollout) -> str:
        scores = np.concatenate(self._sampled)
        seen = f"from {scores.min():g} to {scores.max():g}" if len(scores) else "none"
        samples = int(np.bincount(rollout.group_ids).max())
        return (
            f"dynamic_sampling: in {counted(len(self._groups), 'rollout')} of {counted(self._wanted, 'prompt')} "
            f"(max_gen_batches={self.max_batches}) no prompt has responses of different rewards (rewards: {seen}), so "
            f"there is nothing to learn from. Give more responses to a prompt (num_return_sequences={2 * samples}), "
            f"more rollouts (max_gen_batches={4 * self.max_batches}), a higher temperature, easier or harder prompts, "
            "a reward of finer steps, or dynamic_sampling=false"
        )


def informative_rows(rollout: Rollout) -> np.ndarray:
    """Return [N] bool, True for valid rows whose group has valid rows of another score."""
    informative = np.zeros(rollout.num_rows, bool)
    for group in np.unique(rollout.group_ids):
        rows = (rollout.group_ids == group) & rollout.valid_rows
        informative |= rows & bool(np.ptp(rollout.scores[rows]) > 0 if rows.any() else False)
    return informative


def take_rows(rollout: Rollout, rows: np.ndarray) -> Rollout:
    """Return ``rows`` [n] of ``rollout``; grids [N, R] are cut to the longest response that is left."""
    width = max((len(rollout.responses[i]) for i in rows), default=0)

    def take(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(value[i] for i in rows) if value else value
        if isinstance(value, Mapping):
            return {name: take(column) for name, column in value.items()}
        if isinstance(value, np.ndarray):
            return value[rows, :width] if value.ndim == 2 else value[rows]
        return value

    return rollout.with_fields(**{item.name: take(getattr(rollout, item.name)) for item in fields(rollout)})


def join_rollouts(rollouts: Sequence[Rollout]) -> Rollout:
    """Return the rows of all ``rollouts`` in order; groups are numbered anew, the version is that of the first."""
    width = max(part.response_width for part in rollouts)

    def join(values: list[Any]) -> Any:
        first = values[0]
        if isinstance(first, tuple):
            return tuple(item for value in values for item in value)
        if isinstance(first, Mapping):
            return {name: join([value[name] for value in values]) for name in first}
        if isinstance(first, np.ndarray) and first.ndim == 2:
            return np.concatenate([np.pad(value, ((0, 0), (0, width - value.shape[1]))) for value in values])
        return np.concatenate(values) if isinstance(first, np.ndarray) else first

    rollouts = [part.with_fields(valid=part.valid_rows) for part in rollouts]
    joined = {item.name: join([getattr(part, item.name) for part in rollouts]) for item in fields(rollouts[0])}
    counts = np.cumsum([0, *(int(part.group_ids.max()) + 1 for part in rollouts[:-1])])
    ids = np.concatenate([part.group_ids + start for part, start in zip(rollouts, counts, strict=True)])
    return rollouts[0].with_fields(**{**joined, "group_ids": ids})
