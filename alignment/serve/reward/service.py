"""A reward model that scores the answers of several requests at once, in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from queue import SimpleQueue
from typing import NamedTuple

import numpy as np

from alignment.data.encode import Encoder
from alignment.errors import DataError, ModelFolderError, UserError
from alignment.models.folders.attribute_heads import StoredHead
from alignment.models.folders.hub import holds_score_model, load_score_model, resolve_model_folder, working_dtype
from alignment.models.folders.sequence_ends import padding_warning
from alignment.parallel.build_runner import build_runner
from alignment.parallel.initialise import select_device
from alignment.parallel.topology import Topology
from alignment.rollout.forward import measure_scores
from alignment.runs.on_policy.reward_models import tell_readiness
from alignment.runs.stages.policy import Voice
from alignment.serve.answers import HttpError
from alignment.serve.counters import ServerCounters
from alignment.serve.reward.forms import Answered
from alignment.serve.room import Room
from alignment.telemetry import log


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardSettings:
    """How a reward model is served."""

    template: str | None = None
    """See ``PolicySettings.template``."""
    rows_per_batch: int = 16
    """Answers of a pass."""
    max_queue: int = 1024
    """Answers that wait."""
    request_timeout: float = 600.0
    head: StoredHead = StoredHead(None, None)
    """Which head of the folder scores, and the weights of its attributes."""
    device: str | None = None


class _Waiting(NamedTuple):
    rows: list[np.ndarray]
    starts: list[int]
    future: Future[list[float]]


class RewardService:
    """Scores with the model in ``folder``, normalised if its configuration says so."""

    def __init__(self, folder: str, settings: RewardSettings, counters: ServerCounters) -> None:
        """UserError if the model cannot be loaded."""
        self.settings, self.room = settings, Room(settings.rows_per_batch + settings.max_queue)
        self._counters = counters
        self._queue: SimpleQueue[_Waiting | None] = SimpleQueue()
        loaded: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, args=(folder, loaded), name="reward", daemon=True)
        self._thread.start()
        loaded.result()

    def submit(self, answered: Sequence[Answered]) -> Future[list[float]]:
        """Return the scores to come; HttpError for answers that cannot be scored, or too many."""
        pairs = [self._encode(row, number) for number, row in enumerate(answered)]
        self.room.enter(len(pairs))
        future: Future[list[float]] = Future()
        self._queue.put(_Waiting([ids for ids, _ in pairs], [start for _, start in pairs], future))
        return future

    def close(self) -> None:
        """End the thread when all that waits is scored."""
        self._queue.put(None)
        self._thread.join()

    def _encode(self, row: Answered, number: int) -> tuple[np.ndarray, int]:
        try:
            ids, start = encode(self._voice, row)
        except DataError as error:
            raise HttpError(400, f"answer {number}: {error}") from None
        longest = self._voice.config.longest_sequence
        if len(ids) > longest:
            raise HttpError(400, f"answer {number} has {len(ids)} tokens with its prompt; the model reads {longest}")
        return np.asarray(ids, np.int64), start

    def _run(self, folder: str, loaded: Future[None]) -> None:
        try:
            self._load(folder)
        except BaseException as error:  # noqa: BLE001 - it is the caller's
            loaded.set_exception(error)
            return
        loaded.set_result(None)
        is_open = True
        while is_open:
            waiting = [self._queue.get()]
            while not self._queue.empty():
                waiting.append(self._queue.get())
            is_open = None not in waiting
            # Those that are not waited for any more are cancelled; the others cannot be from here on.
            self._score([one for one in waiting if one and one.future.set_running_or_notify_cancel()])

    def _load(self, folder: str) -> None:
        device = select_device(self.settings.device)
        path = resolve_model_folder(folder, parts=("reward",))
        if not holds_score_model(path, head_prefix=self.settings.head.prefix):
            raise ModelFolderError(f"{path} holds no reward model (a policy is served with --policy)")
        tell_readiness(str(path))
        self._voice = Voice(path, self.settings.template)
        if (line := padding_warning(str(path), self._voice.config, self._voice.tokenizer)) is not None:
            log.warn(line)
        self._model = load_score_model(path, dtype=working_dtype(path, device), stored_head=self.settings.head)
        self._model.eval()
        self._runner = build_runner(self._model, Topology(device=device))

    def _score(self, waiting: Sequence[_Waiting]) -> None:
        """Score the answers of all ``waiting`` requests together; if that fails, each request alone."""
        if not waiting:
            return
        try:
            values = self._measure(waiting)
        except Exception as error:  # noqa: BLE001 - it is the requests'
            if len(waiting) == 1:
                waiting[0].future.set_exception(error)
            else:
                for one in waiting:
                    self._score([one])
            return
        for one in waiting:
            own, values = values[: len(one.rows)], values[len(one.rows) :]
            one.future.set_result(own)

    def _measure(self, waiting: Sequence[_Waiting]) -> list[float]:
        rows = [ids for one in waiting for ids in one.rows]
        starts = [start for one in waiting for start in one.starts] if self._model.options.needs_starts else None
        scores = measure_scores(self._runner, rows, starts, rows_per_batch=self.settings.rows_per_batch)
        bad = np.flatnonzero(~np.isfinite(scores))
        if len(bad):
            raise UserError(f"the score of answer {bad[0]} is {scores[bad[0]]}")
        self._counters.add("scored_answers_total", len(rows))
        self._counters.add("score_batches_total", -(-len(rows) // self.settings.rows_per_batch))
        return np.asarray(self._model.apply_normalization(scores), np.float64).tolist()


def encode(voice: Voice, row: Answered) -> tuple[list[int], int]:
    """Return the ids of prompt and answer, and where the answer begins (0 in one text)."""
    encoder: Encoder = voice.encoder
    if row.asked is not None:
        asked = encoder.encode_prompt(row.asked)
        return asked.ids + encoder.encode_answer(asked, row.text).ids, len(asked.ids)
    tokenizer, text = voice.tokenizer, row.text
    endings = [token for token in (tokenizer.pad_token, tokenizer.eos_token) if token]
    while any(text.endswith(token) for token in endings):
        text = text[: -max(len(token) for token in endings if text.endswith(token))]
    begins = tokenizer.bos_token is not None and text.startswith(tokenizer.bos_token)
    if begins:
        return [*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id], 0
    return encoder.encode_text(text), 0
