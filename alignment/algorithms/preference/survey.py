"""The survey of an update: what some losses need to know of all its pairs before the first of them is trained on.

It reads the log-probs of the policy as it is before the update, so its numbers are the same in every layout and for
every size of micro-batches. Legend: N pairs of an update, n of a micro-batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from alignment.algorithms.preference.combined import divisor, reads_reference, weigh_lengths
from alignment.algorithms.preference.losses import LOSSES
from alignment.algorithms.preference.update_losses import SurveyedAnswers
from alignment.errors import CheckpointError
from alignment.records import TokenBatch


class RunningMean:
    """The mean gain of all answers of all updates so far: the threshold of ``bco_pair``."""

    def __init__(self) -> None:
        self._total, self._count = 0.0, 0

    def measure(self, answers: SurveyedAnswers, *, learns: bool) -> np.ndarray:
        """Return [2, N], the mean; with ``learns`` these answers are counted first. Before any, it is theirs."""
        total, count = float(answers.gains.sum()), answers.gains.size
        if learns:
            self._total, self._count = self._total + total, self._count + count
        mean = self._total / self._count if self._count else total / count
        return np.full(answers.logps.shape, mean)

    def state(self) -> dict[str, Any]:
        """Return its numbers as JSON values."""
        return {"total": self._total, "count": self._count}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state`` returned."""
        try:
            self._total, self._count = float(state["total"]), int(state["count"])
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"its running mean of gains is damaged ({error})") from error


class UpdateSurvey:
    """Adds to the micro-batches of an update a field for each loss that needs it, [2n], by the name of the loss."""

    def __init__(self, hyperparameters: Any) -> None:
        self._hyperparameters = hyperparameters
        self._mean = RunningMean()

    def __call__(self, batches: Sequence[TokenBatch], logps: Sequence[np.ndarray], *, learns: bool) -> None:
        """Measure ``logps``, of each micro-batch as the loss gets them; ``learns`` counts them in running means."""
        asked = self._hyperparameters
        sides = _sides(weigh_lengths(part, asked) for part in logps)
        reference = np.zeros_like(sides)
        if reads_reference(asked):
            reference = _sides(weigh_lengths(batch.fields["reference"], asked) for batch in batches)
        lengths = _sides(batch.response_mask.sum(axis=-1) for batch in batches)
        for name in surveyed(asked):
            length = divisor(name, lengths, asked, mean=lambda both: both.mean(axis=0))
            answers, measure = SurveyedAnswers(sides / length, reference / length), LOSSES[name].measure
            measured = self._mean.measure(answers, learns=learns) if measure is None else measure(answers)
            for batch, rows in zip(batches, _rows(measured, batches), strict=True):
                batch.fields[name] = rows

    def state(self) -> dict[str, Any]:
        """Return what updates have left as JSON values."""
        return self._mean.state()

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state`` returned."""
        self._mean.load_state(state)


def surveyed(hyperparameters: Any) -> list[str]:
    """Return the losses of a run that need a survey."""
    has_mean = hyperparameters.bco_threshold == "running"
    names = hyperparameters.loss_type
    return [name for name in names if LOSSES[name].measure is not None or (LOSSES[name].keeps_mean and has_mean)]


def make_survey(hyperparameters: Any) -> UpdateSurvey | None:
    """Return the survey of a run's losses; None if they need none."""
    return UpdateSurvey(hyperparameters) if surveyed(hyperparameters) else None


def _sides(rows: Iterable[np.ndarray]) -> np.ndarray:
    """Join the rows [2n] of micro-batches to [2, N] float64."""
    return np.concatenate([part.reshape(2, -1) for part in rows], axis=1).astype(np.float64)


def _rows(sides: np.ndarray, batches: Sequence[TokenBatch]) -> list[np.ndarray]:
    """Cut [2, N] into the rows [2n] of micro-batches, float32."""
    cuts = np.cumsum([batch.num_rows // 2 for batch in batches])[:-1]
    return [part.reshape(-1).astype(np.float32) for part in np.split(sides, cuts, axis=1)]
