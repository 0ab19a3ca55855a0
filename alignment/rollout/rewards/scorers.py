"""Score rollouts with a reward model, a Python function or an HTTP service; failures never become zero rewards."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np

from alignment.errors import NotFiniteError, RewardError
from alignment.parallel.comms.group import ALONE, Group
from alignment.parallel.comms.stop_signals import Interrupted
from alignment.parallel.roles import EVERYONE, RoleRanks, RoleWork, share_work
from alignment.parallel.runner import ModelRunner
from alignment.records import Rollout
from alignment.rollout.forward import measure_scores
from alignment.rollout.retries import retry
from alignment.rollout.rewards.text_batch import TextBatch
from alignment.rollout.rewards.user_code import describe_failure, may_pass
from alignment.telemetry import log

_LARGEST = float(np.finfo(np.float32).max)


class Scores(NamedTuple):
    """Rewards of a rollout."""

    values: np.ndarray
    """[N] float32."""
    valid: np.ndarray | None
    """[N] bool, False in groups masked because their reward failed; None: all valid."""
    by_source: Mapping[str, np.ndarray] = {}
    """Of several sources: the raw scores of each, [N] float32, NaN where it failed."""
    notes: Mapping[str, np.ndarray] = {}
    """What a source says of rows besides their scores, [N] float32 each, to be logged (timeouts, for example)."""

    @property
    def columns(self) -> np.ndarray:
        """What is normalised: values [N], or the scores of several sources [N, sources]."""
        return np.stack(list(self.by_source.values()), axis=1) if self.by_source else self.values


class Scorer(Protocol):
    """Anything that scores a rollout."""

    def score(self, rollout: Rollout) -> Scores:
        """Return one reward per row; RewardError on failure."""
        return self.read(share_work(self.works(rollout)))

    def works(self, rollout: Rollout) -> list[RoleWork]:
        """Return what is to be computed, to be done together with the work of other roles; see ``read``."""
        return [RoleWork(EVERYONE, partial(self.score, rollout))]

    def read(self, results: Sequence[Any]) -> Scores:
        """Return the rewards, given the results of ``works``."""
        return results[0]


class ModelScorer(Scorer):
    """Scores with a reward (or cost) model; ``sequences`` converts rows to the model's token ids."""

    def __init__(
        self,
        runner: ModelRunner,
        sequences: Callable[[Rollout], list[np.ndarray]],
        *,
        rows_per_batch: int,
        starts: Callable[[Rollout], list[int]] | None = None,
        name: str = "reward model",
        who: RoleRanks = EVERYONE,
    ) -> None:
        """``starts`` returns where each answer begins, for a model that averages over it (None: it does not).

        Messages call the model ``name``; ``who`` are the ranks that have it.
        """
        self._who = who
        self._name = name
        self._runner = runner
        self._sequences = sequences
        self._starts = starts
        self._rows_per_batch = rows_per_batch

    def works(self, rollout: Rollout) -> list[RoleWork]:
        """See ``Scorer``."""
        return [RoleWork(self._who, partial(self._score, rollout))]

    def _score(self, rollout: Rollout) -> Scores:
        """Return the scores; NotFiniteError names the first row whose score is not finite."""
        starts = None if self._starts is None else self._starts(rollout)
        values = measure_scores(self._runner, self._sequences(rollout), starts, rows_per_batch=self._rows_per_batch)
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            counted = f"{len(bad)} of {len(values)} rows are NaN or infinite"
            found = f"the score of row {bad[0]} is {values[bad[0]]} ({counted})"
            raise NotFiniteError(found, self._name, is_trained=False)
        return Scores(values.astype(np.float32), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class FailurePolicy:
    """What to do when a reward call fails: retry if that may help, then stop or mask the affected groups."""

    retries: int = 3
    """Retries of a call whose failure may be temporary (``user_code.may_pass``)."""
    backoff_seconds: float = 1.0
    on_failure: str = "stop"
    """``stop`` ends the run; ``mask_group`` excludes all samples of the prompt from the losses."""
    advice: str = ""
    """What is said after the failure that ends the run: what would keep it going."""
    is_judge: bool = False
    """Whether scores are only reported: all failures of a call are told in one line, since nothing is masked."""


class TextScorer(Scorer):
    """Scores decoded text with ``call``; for failures see ``FailurePolicy``.

    Only the first process calls it, with all rows, and shares the result, so a function or service sees the same
    batches in every layout.
    """

    def __init__(
        self,
        call: Callable[[TextBatch], Sequence[float]],
        tokenizer: Any,
        *,
        name: str,
        policy: FailurePolicy,
        world: Group = ALONE,
    ) -> None:
        self._call = call
        self._tokenizer = tokenizer
        self._name = name
        self._policy = policy
        self._who = RoleRanks(world=world)

    def works(self, rollout: Rollout) -> list[RoleWork]:
        """See ``Scorer``; a failure is raised in every process."""
        return [RoleWork(self._who, partial(self._score, rollout))]

    def _score(self, rollout: Rollout) -> Scores:
        responses = [self._tokenizer.decode(r.tolist(), skip_special_tokens=True) for r in rollout.responses]
        batch = TextBatch(list(rollout.inputs), responses, list(rollout.labels))
        try:
            return self._with_retries(batch)
        except RewardError as error:
            if self._policy.on_failure == "stop":
                raise RewardError(f"{error}{self._policy.advice}") from error
            if not self._policy.is_judge:
                log.warn(f"{error}; scoring group by group to mask only those that fail")
            return self._by_group(batch, rollout.group_ids, error)

    def _with_retries(self, batch: TextBatch) -> Scores:
        return retry(
            lambda: self._checked(self._call(batch), len(batch.responses)),
            self._name,
            self._policy,
            may_pass=may_pass,
            describe=describe_failure,
            error=RewardError,
        )

    def _by_group(self, batch: TextBatch, group_ids: np.ndarray, error: RewardError) -> Scores:
        values, notes = np.zeros(len(group_ids), np.float32), {}
        valid, told = np.zeros(len(group_ids), bool), []
        for group in np.unique(group_ids):
            rows = np.flatnonzero(group_ids == group)
            try:
                found = self._checked(self._call(batch.select(rows)), len(rows))
                values[rows] = found.values
                for name, numbers in found.notes.items():
                    notes.setdefault(name, np.zeros_like(values))[rows] = numbers
                valid[rows] = True
            except (Interrupted, KeyboardInterrupt):
                raise
            except BaseException as failure:  # noqa: BLE001 - as above
                told.append((f"{batch.inputs[rows[0]]!r:.80}", describe_failure(failure)))
                if not self._policy.is_judge:
                    log.warn(f"masked the responses to {told[-1][0]}: {self._name} failed ({told[-1][1]})")
        if not valid.any():
            why = f"no response has a score. The first failure: {told[0][1]}"
            raise RewardError(f"{self._name} failed for every group: {why}") from error
        if self._policy.is_judge and told:
            log.warn(
                f"{self._name} could not score {(~valid).sum()} of {len(valid)} answers, which its mean leaves out, "
                f"as on_reward_failure={self._policy.on_failure} says; the first is to {told[0][0]}: {told[0][1]}"
            )
        return Scores(values, None if valid.all() else valid, notes=notes)

    def _checked(self, found: Any, expected: int) -> Scores:
        """Return the scores in a list, or in a mapping with ``score`` and notes, which are lists of numbers too."""
        if not isinstance(found, Mapping):
            return Scores(self._read_numbers(found, expected), None)
        if "score" not in found or not all(isinstance(name, str) and name.isidentifier() for name in found):
            raise RewardError(f"it returned {list(found)}; expected 'score' and names of notes, each with a list")
        numbers = {name: self._read_numbers(value, expected) for name, value in found.items()}
        return Scores(numbers.pop("score"), None, notes=numbers)

    def _read_numbers(self, scores: Any, expected: int) -> np.ndarray:
        try:
            values = np.asarray(scores, np.float64)
        except (TypeError, ValueError, OverflowError) as error:
            raise RewardError(f"it returned {scores!r:.200}, which is not a list of numbers ({error})") from error
        if values.shape != (expected,):
            raise RewardError(f"it returned shape {values.shape} for {expected} responses; expected ({expected},)")
        bad = np.flatnonzero(~(np.abs(values) <= _LARGEST))
        if len(bad):
            raise RewardError(
                f"it returned {values[bad[0]]} for response {bad[0]}; rewards must be finite, {_LARGEST:.2g} at most"
            )
        return values.astype(np.float32)
