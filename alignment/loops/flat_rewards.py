"""Detect rewards that do not distinguish responses, from which an on-policy algorithm learns nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from alignment.metrics import Metric
from alignment.telemetry import log

PATIENCE = 3
"""Number of consecutive rollouts with equal rewards after which the run warns, once."""
MIN_PROMPTS = 8
"""Number of prompts that these rollouts must hold."""
_CAUSE = (
    "The reward does not tell responses apart, or all already get its best value; the samples in the report show what "
    "it was given"
)


@dataclass(kw_only=True)
class FlatRewards:
    """Counts consecutive rollouts in which all rewards are one value, or all rewards of each group are equal."""

    prompts: int = 1
    """Prompts in a rollout, over all processes."""
    seen: int = 0
    in_a_row: int = 0
    reward: float | None = None
    """The one reward of all responses in these rollouts; None if they have several."""
    told: bool = False

    def observe(self, metrics: Mapping[str, Metric]) -> None:
        """Count one iteration; metrics without rewards (offline training) are ignored."""
        if "reward/min" not in metrics:
            return
        self.seen += 1
        lowest, highest = (float(metrics[f"reward/{end}"].value) for end in ("min", "max"))
        share = metrics.get("reward/degenerate_share")
        each_group = share is not None and float(share.value) >= 1
        reward = lowest if lowest == highest else None
        goes_on = self.in_a_row > 0 and (each_group or (reward is not None and reward == self.reward))
        self.reward = reward if not goes_on or reward == self.reward else None
        self.in_a_row = self.in_a_row + 1 if goes_on else int(each_group or reward is not None)
        if self.in_a_row >= PATIENCE:
            self._warn()

    def finish(self) -> None:
        """At the end of a run, warn if it was too short for ``observe`` and all its rollouts were flat."""
        if 0 < self.seen == self.in_a_row < PATIENCE:
            self._warn()

    def _warn(self) -> None:
        if self.in_a_row * self.prompts < MIN_PROMPTS or self.told or not log.is_main():
            return
        self.told = True
        same = "the responses to each prompt earned the same reward"
        what = same if self.reward is None else f"every response earned the same reward ({self.reward:g})"
        count = "the last rollout" if self.in_a_row == 1 else f"each of the last {self.in_a_row} rollouts"
        log.warn(f"in {count} {what}, so nothing is learned from the rewards. {_CAUSE}")
