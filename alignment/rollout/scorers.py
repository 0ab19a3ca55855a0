"""Where rewards come from: a reward model, a Python function or an HTTP service. Never a silent zero."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from alignment.errors import RewardError
from alignment.parallel.group import ALONE, Group
from alignment.parallel.runner import ModelRunner
from alignment.parallel.together import on_main
from alignment.records import Rollout
from alignment.rollout.forward import measure_scores
from alignment.telemetry import log

LONGEST_PAUSE = 60.0
"""Seconds between two tries at most."""


class Scores(NamedTuple):
    """Rewards of a rollout."""

    values: np.ndarray
    """[N] float32."""
    valid: np.ndarray | None
    """[N] bool, False where the reward failed and its group is masked; None: all valid."""


class Scorer(Protocol):
    """Anything that scores a rollout."""

    def score(self, rollout: Rollout) -> Scores:
        """Return one reward a row, or raise RewardError."""
        ...


class ModelScorer:
    """Scores with a reward model; ``sequences`` turns rows into the model's own token ids."""

    def __init__(
        self, runner: ModelRunner, sequences: Callable[[Rollout], list[np.ndarray]], *, rows_per_batch: int
    ) -> None:
        self._runner = runner
        self._sequences = sequences
        self._rows_per_batch = rows_per_batch

    def score(self, rollout: Rollout) -> Scores:
        """See ``Scorer``; a score that is not finite is an error that names the row."""
        values = measure_scores(self._runner, self._sequences(rollout), rows_per_batch=self._rows_per_batch)
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            raise RewardError(
                f"the reward model gave {values[bad[0]]} for row {bad[0]} of the rollout ({len(bad)} rows)"
            )
        return Scores(values.astype(np.float32), None)


class TextBatch(NamedTuple):
    """What functions and services see of a rollout; one entry a row."""

    inputs: list[Any]
    """Raw user text, or dialogue."""
    responses: list[str]
    """Decoded answers without special tokens."""
    labels: list[str | None]
    """Reference answers of the dataset, where it has them."""

    def select(self, rows: Sequence[int]) -> TextBatch:
        """Return the given rows."""
        return TextBatch(*([column[i] for i in rows] for column in self))


@dataclass(frozen=True, slots=True, kw_only=True)
class FailurePolicy:
    """What to do when a reward call fails: try again, then stop or mask the groups concerned."""

    retries: int = 3
    backoff_seconds: float = 1.0
    on_failure: str = "stop"
    """``stop`` ends the run; ``mask_group`` leaves all samples of the prompt out of the losses."""


class TextScorer:
    """Scores decoded text by ``call``; see ``FailurePolicy`` for what happens when it fails.

    Of several processes only the first one calls, with all rows, and shares what came of it: a function or service
    sees the same batches in every layout.
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
        self._world = world

    def score(self, rollout: Rollout) -> Scores:
        """See ``Scorer``; a failure is raised in every process."""
        return on_main(self._world, self._score, rollout)

    def _score(self, rollout: Rollout) -> Scores:
        responses = [self._tokenizer.decode(r.tolist(), skip_special_tokens=True) for r in rollout.responses]
        batch = TextBatch(list(rollout.inputs), responses, list(rollout.labels))
        try:
            return Scores(self._with_retries(batch), None)
        except RewardError as error:
            if self._policy.on_failure == "stop":
                raise
            log.warn(f"{error}; scoring group by group to mask only those that fail")
            return self._by_group(batch, rollout.group_ids, error)

    def _with_retries(self, batch: TextBatch) -> np.ndarray:
        for attempt in range(self._policy.retries + 1):
            try:
                return self._checked(self._call(batch), len(batch.responses))
            except Exception as error:  # noqa: BLE001 - a user's function may raise anything; it is reported below
                last = error
                if attempt < self._policy.retries:
                    log.warn(f"{self._name} failed ({_reason(error)}); try {attempt + 2} of {self._policy.retries + 1}")
                    time.sleep(min(LONGEST_PAUSE, self._policy.backoff_seconds * 2**attempt))
        raise RewardError(f"{self._name} failed {self._policy.retries + 1} times, last: {_reason(last)}") from last

    def _by_group(self, batch: TextBatch, group_ids: np.ndarray, error: RewardError) -> Scores:
        values = np.zeros(len(group_ids), np.float32)
        valid = np.zeros(len(group_ids), bool)
        for group in np.unique(group_ids):
            rows = np.flatnonzero(group_ids == group)
            try:
                values[rows] = self._checked(self._call(batch.select(rows)), len(rows))
                valid[rows] = True
            except Exception as failure:  # noqa: BLE001 - as above
                prompt = f"{batch.inputs[rows[0]]!r:.80}"
                log.warn(f"masked the responses to {prompt}: {self._name} failed ({_reason(failure)})")
        if not valid.any():
            raise RewardError(f"{self._name} failed for every group of the rollout; nothing to learn from") from error
        return Scores(values, None if valid.all() else valid)

    def _checked(self, scores: Any, expected: int) -> np.ndarray:
        values = np.asarray(scores, np.float32)
        if values.shape != (expected,):
            raise RewardError(
                f"{self._name} returned shape {values.shape} for {expected} responses; expected ({expected},)"
            )
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            raise RewardError(f"{self._name} returned {values[bad[0]]} for response {bad[0]}; rewards must be finite")
        return values


class HttpReward:
    """Posts lists ``{"src", "tgt", "response"}`` as JSON and reads ``{"score": [...]}``, as the reference suite."""

    def __init__(self, url: str, *, timeout_seconds: float) -> None:
        self._url = url
        self._timeout = timeout_seconds

    def __call__(self, batch: TextBatch) -> list[float]:
        """Return the service's scores."""
        body = json.dumps({"src": batch.inputs, "tgt": batch.labels, "response": batch.responses}).encode()
        request = urllib.request.Request(self._url, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=self._timeout) as answer:
            content = json.load(answer)
        if not isinstance(content, dict) or "score" not in content:
            raise RewardError(f"{self._url} answered without 'score': {str(content)[:200]}")
        return content["score"]


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if not isinstance(error, RewardError) else str(error)
