"""A frozen language model that tells the log-probs of given tokens, one request after the other."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from alignment.errors import UserError
from alignment.models.config import read_config
from alignment.models.folders.hub import load_causal_lm, resolve_model_folder, working_dtype
from alignment.models.tokenizer.tokenizer import load_tokenizer
from alignment.parallel.build_runner import build_runner
from alignment.parallel.initialise import select_device
from alignment.parallel.topology import Topology
from alignment.records import Rollout
from alignment.rollout.forward import measure_logprobs
from alignment.rollout.reference_service import ReferenceIdentity
from alignment.runs.frozen import frozen_model
from alignment.runs.stages.stage import ALONE
from alignment.serve.answers import HttpError
from alignment.serve.counters import ServerCounters
from alignment.serve.room import Room


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceSettings:
    """How a reference is served."""

    rows_per_batch: int = 16
    """Answers of a pass."""
    max_queue: int = 1024
    """Answers that wait."""
    request_timeout: float = 600.0
    device: str | None = None


class GivenAnswers(NamedTuple):
    """Answers whose log-probs are asked for."""

    prompts: list[list[int]]
    responses: list[list[int]]
    temperature: float


class ReferenceService:
    """The model in ``folder``; Paddle is used in a thread of its own.

    A request is not joined with others, so a run gets the numbers that the model would give in its own process.
    """

    def __init__(self, folder: str, settings: ReferenceSettings, counters: ServerCounters) -> None:
        """UserError if the model cannot be loaded."""
        self.settings, self.room = settings, Room(settings.rows_per_batch + settings.max_queue)
        self._counters = counters
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="reference")
        self._thread.submit(self._load, folder).result()

    def submit(self, asked: GivenAnswers) -> Future[list[list[float]]]:
        """Return the log-probs to come; HttpError for answers that cannot be read, or too many."""
        for number, (prompt, response) in enumerate(zip(asked.prompts, asked.responses, strict=True)):
            self._check(number, prompt, response)
        self.room.enter(len(asked.prompts))
        return self._thread.submit(self._measure, asked)

    def close(self) -> None:
        """End the thread when all that waits is measured."""
        self._thread.shutdown()

    def _check(self, number: int, prompt: Sequence[int], response: Sequence[int]) -> None:
        if not prompt or not response:
            raise HttpError(400, f"answer {number} has {len(prompt)} tokens of prompt and {len(response)} of response")
        total, highest = len(prompt) + len(response), max(*prompt, *response)
        if total > self.identity.longest:
            raise HttpError(400, f"answer {number} has {total} tokens; the model reads {self.identity.longest}")
        if highest >= self._vocab_size:
            raise HttpError(400, f"answer {number} has token {highest}; the model knows 0 to {self._vocab_size - 1}")

    def _load(self, folder: str) -> None:
        device = select_device(self.settings.device)
        path = resolve_model_folder(folder, parts=("policy",))
        config, tokenizer, dtype = read_config(path), load_tokenizer(path), working_dtype(path, device)
        model = load_causal_lm(path, dtype=dtype, tokenizer=tokenizer)
        model.eval()
        self._runner = build_runner(model, Topology(device=device))
        self._vocab_size = config.vocab_size
        self.identity = ReferenceIdentity(
            weights=frozen_model("the reference", str(path), ALONE).content,
            tokenizer=tokenizer.fingerprint(),
            longest=config.longest_sequence,
            dtype=dtype,
        )

    def _measure(self, asked: GivenAnswers) -> list[list[float]]:
        rollout = Rollout(
            prompts=tuple(np.asarray(one, np.int64) for one in asked.prompts),
            responses=tuple(np.asarray(one, np.int64) for one in asked.responses),
            finish_reasons=("stop",) * len(asked.prompts),
            group_ids=np.arange(len(asked.prompts)),
        )
        rows = self.settings.rows_per_batch
        grid, _ = measure_logprobs(self._runner, rollout, rows_per_batch=rows, temperature=asked.temperature)
        bad = np.flatnonzero(~np.isfinite(grid).all(axis=1))
        if len(bad):
            raise UserError(f"log-probs of answer {bad[0]} are NaN or infinite")
        self._counters.add("measured_answers_total", len(grid))
        return [row[: len(one)].tolist() for row, one in zip(grid, asked.responses, strict=True)]
