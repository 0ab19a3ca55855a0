"""Detect rewards that do not distinguish responses, from which an on-policy algorithm learns nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from alignment.metrics import Metric
from alignment.telemetry import log

PATIENCE = 3
"""Number of consecutive rollouts with equal rewards after which the run warns, once."""
_CAUSE = (
    "The reward does not tell responses apart, or all already get its best value; the samples in the report show what "
    "it was given"
)


@dataclass(kw_only=True)
class FlatRewards:
    """Counts consecutive rollouts in which all rewards, or all rewards of each group, are equal."""

    in_a_row: int = 0
    what: str = ""
    """What the rewards of the last rollout had in common."""
    told: bool = False

    def observe(self, metrics: Mapping[str, Metric]) -> None:
        """Count one iteration; metrics without rewards (offline training) are ignored."""
        if "reward/min" not in metrics:
            return
        self.what = what_is_flat(metrics)
        self.in_a_row = self.in_a_row + 1 if self.what else 0
        if self.in_a_row >= PATIENCE:
            self.warn()

    def warn(self) -> None:
        """Warn, once, if the last rollouts were flat; also called at the end, for short runs."""
        if self.in_a_row and not self.told and log.is_main():
            self.told = True
            count = "the last rollout" if self.in_a_row == 1 else f"each of the last {self.in_a_row} rollouts"
            log.warn(f"in {count} {self.what}, so nothing is learned from the rewards. {_CAUSE}")


def what_is_flat(metrics: Mapping[str, Metric]) -> str:
    """Describe what the rewards of a rollout have in common; empty if they differ."""
    lowest, highest = (float(metrics[f"reward/{end}"].value) for end in ("min", "max"))
    if lowest == highest:
        return f"every response earned the same reward ({lowest:g})"
    share = metrics.get("reward/degenerate_share")
    is_flat = share is not None and float(share.value) >= 1
    return "the responses to each prompt earned the same reward" if is_flat else ""
