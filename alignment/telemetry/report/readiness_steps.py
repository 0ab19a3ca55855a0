"""Judge from held-out answers in steps whether a process reward model should be trusted for PPO."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from alignment.telemetry.plots import bin_calibration
from alignment.telemetry.report.readiness import (
    FEWEST,
    LARGE_ERROR,
    LOW_ACCURACY,
    OtherTemplate,
    Readiness,
    calibration_table,
    length_doubts,
    memorised,
    pearson,
    share_rows,
    template_doubts,
    template_rows,
    wilson,
    wrong_groups,
)

LAST_POSITION = 5
"""Steps from here on are one group."""


class JudgedSteps(NamedTuple):
    """The scores of the M steps of n held-out answers, and what else is known of them."""

    scores: np.ndarray
    """[M] logit of the probability that the step is good."""
    good: np.ndarray
    """[M] bool, as the labels say."""
    positions: np.ndarray
    """[M] 1 for the first step of its answer."""
    answers: np.ndarray
    """[M] the number of its answer, 0 to n - 1, ascending."""
    answer_scores: np.ndarray
    """[n] what PPO would get."""
    lengths: np.ndarray
    """[n] tokens of the answers."""
    subsets: Sequence[str] = ()
    """[n] or empty: the dataset of each answer."""
    train_accuracy: float | None = None
    other_template: OtherTemplate | None = None
    """Of steps; None: it was not measured."""

    @property
    def right(self) -> np.ndarray:
        """[M] bool, True: the step is found good or bad as its label says."""
        return (self.scores > 0) == self.good

    @property
    def good_answers(self) -> np.ndarray:
        """[n] bool, True: all steps of the answer are good."""
        found = np.ones(len(self.answer_scores), bool)
        np.logical_and.at(found, self.answers, self.good)
        return found


def judge_steps(steps: JudgedSteps) -> Readiness:
    """Return the readiness of a model that finds steps good or bad."""
    right, groups = steps.right, _groups(steps)
    calibration = bin_calibration(np.where(steps.good, steps.scores, -steps.scores))
    rank = ranked_share(steps.answer_scores, steps.good_answers)
    refusals, doubts = _refusals(steps, groups, rank), []
    if calibration.expected_error > LARGE_ERROR:
        doubts.append(f"its probabilities are off (calibration error {calibration.expected_error:.3f})")
    doubts += [*memorised(steps.train_accuracy, right.mean()), *template_doubts(steps.other_template)]
    of_length = pearson(steps.answer_scores, steps.lengths), pearson(steps.good_answers * 1.0, steps.lengths)
    doubts += length_doubts("the score", *of_length)
    shares = [*share_rows(right, groups), *template_rows(steps.other_template, len(right))]
    tables = (
        {"title": "Accuracy", "columns": ["steps", "count", "accuracy", "95 % interval"], "rows": shares},
        calibration_table(calibration, "steps"),
        _answer_table(steps, rank, of_length),
    )
    trust = "no" if refusals else "with care" if doubts else "yes"
    return Readiness(trust=trust, reasons=(*refusals, *doubts), tables=tables)


def ranked_share(scores: np.ndarray, good: np.ndarray) -> float | None:
    """Return how often a good answer [n] bool scores higher than another, ties counting half; None without both."""
    better, worse = scores[good], scores[~good]
    if not (len(better) and len(worse)):
        return None
    above = np.searchsorted(np.sort(worse), better, "left") + np.searchsorted(np.sort(worse), better, "right")
    return float(above.mean() / (2 * len(worse)))


def _groups(steps: JudgedSteps) -> list[tuple[str, np.ndarray]]:
    """Return (name, [M] bool) of the groups whose accuracy is shown."""
    groups = [("all", np.ones(len(steps.scores), bool)), ("good", steps.good), ("bad", ~steps.good)]
    groups += [(f"step {place}", steps.positions == place) for place in range(1, LAST_POSITION)]
    groups.append((f"step {LAST_POSITION} and later", steps.positions >= LAST_POSITION))
    names = list(dict.fromkeys(steps.subsets))
    of_steps = np.asarray(steps.subsets)[steps.answers] if len(names) > 1 else ()
    groups += [(f"dataset {name}", of_steps == name) for name in names if len(names) > 1]
    return [(name, members) for name, members in groups if members.any()]


def _refusals(steps: JudgedSteps, groups: Sequence[tuple[str, np.ndarray]], rank: float | None) -> list[str]:
    right, most = steps.right, max(steps.good.mean(), 1 - steps.good.mean())
    if wilson(right)[0] <= most:
        word = "good" if steps.good.mean() >= 0.5 else "bad"
        return [
            f"its accuracy {right.mean():.3f} on {len(right)} steps is not surely better than calling all of them "
            f"{word} ({most:.3f})"
        ]
    wrong = wrong_groups(right, groups)
    reasons = [
        f"it takes most of the steps of the group {name!r} wrongly (accuracy {part:.3f})" for name, part in wrong
    ]
    counts = steps.good_answers.sum(), (~steps.good_answers).sum()
    if rank is not None and min(counts) >= FEWEST and rank < LOW_ACCURACY:
        reasons.append(f"of two answers, one good and one not, it ranks the good one higher in only {rank:.3f}")
    return reasons


def _answer_table(
    steps: JudgedSteps, rank: float | None, of_length: tuple[float | None, float | None]
) -> dict[str, Any]:
    """Return the table about whole answers, which is what PPO sees."""
    good, scores = steps.good_answers, steps.answer_scores
    means = [float(scores[part].mean()) if part.any() else None for part in (good, ~good)]
    rows = [
        ["mean score where all steps are good", int(good.sum()), means[0]],
        ["mean score of other answers", int((~good).sum()), means[1]],
        ["a good answer scores higher than another", int(good.sum() * (~good).sum()), rank],
        ["correlation of the score with the length", len(scores), of_length[0]],
        ["correlation of being good with the length", len(scores), of_length[1]],
    ]
    shown = [[name, count, None if number is None else round(number, 3)] for name, count, number in rows]
    return {"title": "Whole answers", "columns": ["what", "answers (or pairs)", "value"], "rows": shown}
