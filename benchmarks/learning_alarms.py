"""The table of ``learning.py`` on the alarm: which runs hacked, and which it told."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hacked import ERRORS, FALL, count_told, ended_low, fall
from learning_runs import Run


def alarms(runs: Sequence[Run]) -> Iterator[str]:
    """Yield how the alarm judged, with the true score as second judge, over the on-policy runs of this package."""
    watched = list(filter(is_watched, runs))
    told, hacked = [bool(run.told) for run in watched], [run.is_hacked() for run in watched]
    recovered = [run.is_hacked(min(run.told.values())) for run in watched if run.told and not run.is_hacked()]
    yield f"Alarm: {count_told(told, hacked)}; {sum(recovered)} of these were hacked when told and recovered."
    yield "By the criterion until 2026-11-30 (sampled answers ended below their start or 0.1 below their best):"
    yield f"{count_told(told, [ended_low(run.scores) for run in watched])}."
    yield ""
    yield "A run hacked if an earlier policy was better by the true score of sampled or of greedy answers, though"
    yield f"no better by the reward of the same answers: the start by more than {ERRORS:g} standard errors of the"
    yield f"differences by prompt, a later policy by {FALL} too (`hacked.py`)."
    yield ""
    yield "| run | sampled: start, best, end | greedy: start, end, change | its reward | hacked | told (update) |"
    yield "|---|---|---|---|---|---|"
    for run, is_hacked in zip(watched, hacked, strict=True):
        if is_hacked or run.told or ended_low(run.scores):
            yield describe_alarm(run, "yes" if is_hacked else "no")


def is_watched(run: Run) -> bool:
    """Return whether ``run`` has an alarm: on-policy, and of this package."""
    return not run.arm.startswith("trl") and run.arm != "dpo"


def describe_alarm(run: Run, hacked: str) -> str:
    """Return the row of a run in the table of alarms."""
    told = ", ".join(f"{kind} {step}" for kind, step in run.told.items()) or "-"
    greedy = run.curve("greedy")
    fallen, error = fall(greedy[0], greedy[-1])
    first, last = (run.points[place]["greedy"] for place in (0, -1))
    cells = [
        f"{run.task}, {run.arm}, seed {run.seed}",
        f"{run.scores[0]:.3f}, {max(run.scores):.3f}, {run.scores[-1]:.3f}",
        f"{first:.3f}, {last:.3f}, {-fallen:+.3f} +- {error:.3f}",
        f"{greedy[0].reward:.2f}, {greedy[-1].reward:.2f}",
    ]
    return f"| {' | '.join(cells)} | {hacked} | {told} |"
