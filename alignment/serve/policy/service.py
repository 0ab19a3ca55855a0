"""A policy that answers requests: its weights, and the thread of its engine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alignment.errors import UserError
from alignment.generation.fused.fused_engine import FusedEngine
from alignment.generation.live import Ask, Growth, RunningBatch
from alignment.generation.one_by_one import OneByOne
from alignment.models.folders.hub import load_causal_lm, resolve_model_folder, working_dtype
from alignment.parallel.initialise import select_device
from alignment.runs.frozen import frozen_model
from alignment.runs.stages.policy import Voice, open_engine
from alignment.runs.stages.stage import ALONE
from alignment.serve.answers import HttpError
from alignment.serve.engine_thread import EngineJob, EngineThread
from alignment.serve.room import Room
from alignment.telemetry import log


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySettings:
    """How a policy is served."""

    template: str | None = None
    """``none``, ``tokenizer`` or a text; None: as it was trained."""
    kv_memory: str | None = None
    num_slots: int = 32
    """Answers that are generated side by side."""
    max_queue: int = 256
    """Answers that wait for a slot."""
    max_length: int | None = None
    """Maximum tokens of a prompt and its answer; None: the model's positions."""
    request_timeout: float = 600.0
    """Seconds from a request to the end of its answer."""
    device: str | None = None


class PolicyService:
    """Answers with the model in ``folder``; Paddle is used in the thread of its engine only."""

    def __init__(self, folder: str, settings: PolicySettings) -> None:
        """UserError if the model cannot be loaded."""
        self.settings = settings
        self.version = 0
        self.created = int(time.time())
        keys, doing = "--num_slots and --max_queue", "are being generated or wait"
        self.room = Room(settings.num_slots + settings.max_queue, keys=keys, doing=doing)
        self._num_reloads = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._device = select_device(settings.device)
        self._thread = EngineThread(self._open_batch, self._post)
        self._thread.call_alone(lambda: self._load(folder)).result()

    @property
    def longest(self) -> int:
        """Maximum tokens of a prompt and its answer."""
        positions = self.voice.config.longest_sequence
        return min(positions, self.settings.max_length or positions)

    def longest_answered(self, prompt_tokens: int) -> int:
        """Return the maximum tokens of a prompt of ``prompt_tokens`` tokens and its answer."""
        return min(self.longest, self.voice.config.longest_answered(prompt_tokens))

    @property
    def is_loading(self) -> bool:
        """Whether answers that are asked for now wait for other weights."""
        return self._num_reloads > 0

    async def answer(self, ask: Ask, *, each: bool) -> AsyncIterator[Growth]:
        """Yield the pieces of the answers to ``ask``, of every token if ``each``; leaving early cancels the rest."""
        self._loop = asyncio.get_running_loop()
        news: asyncio.Queue[Growth | Exception] = asyncio.Queue()
        count, end = len(ask.prompts), self._loop.time() + self.settings.request_timeout
        self.room.enter(count)

        def begin() -> None:
            ask.weights = self.weights

        self._thread.submit(EngineJob(ask, lambda told: [news.put_nowait(one) for one in told], each, begin))
        left = count
        try:
            while left:
                piece = await self._next(news, end)
                left -= piece.finish_reason is not None
                yield piece
        finally:
            self.room.leave(count)
            if left:
                self._thread.cancel(ask)

    async def reload(self, folder: str | None) -> int:
        """Load the weights in ``folder`` (None: the present one) after all running answers; return their version."""
        self._num_reloads += 1
        try:
            future: Future[int] = self._thread.call_alone(lambda: self._reload(folder or self.folder))
            return await asyncio.wrap_future(future)
        finally:
            self._num_reloads -= 1

    def close(self) -> None:
        """End the engine's thread."""
        self._thread.stop()

    async def _next(self, news: asyncio.Queue[Any], end: float) -> Growth:
        try:
            piece = await asyncio.wait_for(news.get(), max(0.001, end - asyncio.get_running_loop().time()))
        except asyncio.TimeoutError:
            seconds = self.settings.request_timeout
            raise HttpError(504, f"no complete answer within {seconds:g} s (--request_timeout)") from None
        if isinstance(piece, UserError):
            raise HttpError(400, str(piece))
        if isinstance(piece, Exception):
            log.warn(f"a request failed: {type(piece).__name__}: {piece}")
            raise HttpError(500, f"the engine failed: {type(piece).__name__}; the server's log says more")
        return piece

    def _post(self, news: list[Any]) -> None:
        def tell() -> None:
            for receive, told in news:
                receive(told)

        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(tell)

    def _load(self, folder: str) -> None:
        path = resolve_model_folder(folder, parts=("policy",))
        voice = Voice(path, self.settings.template)
        dtype = working_dtype(path, self._device)
        model = load_causal_lm(path, dtype=dtype, tokenizer=voice.tokenizer)
        self.folder, self.voice, self._dtype, self.weights = folder, voice, dtype, _fingerprint(path)
        settings = self.settings
        try:
            self._engine = open_engine(
                model,
                len(voice.tokenizer),
                dtype=dtype,
                kv_memory=settings.kv_memory,
                num_slots=settings.num_slots,
                max_length=self.longest,
            )
        except RuntimeError as error:
            raise UserError(
                f"{error}. Give a lower --max_length (now {self.longest}) or --num_slots (now {settings.num_slots}), "
                "or --kv_memory"
            ) from error

    def _open_batch(self) -> RunningBatch:
        batch = self._engine.open_batch(self.voice.ends) if isinstance(self._engine, FusedEngine) else None
        return batch or OneByOne(self._engine)

    def _reload(self, folder: str) -> int:
        path = resolve_model_folder(folder, parts=("policy",))
        voice = Voice(path, self.settings.template)
        for what, old, new in (
            ("model of another shape", self.voice.config, voice.config),
            ("model with another tokenizer", self.voice.tokenizer.fingerprint(), voice.tokenizer.fingerprint()),
            ("model with other end tokens", self.voice.ends, voice.ends),
            ("model with another chat template", self.voice.template, voice.template),  # requests that wait have it
        ):
            if old != new:
                raise UserError(f"{path}: a {what} than the served one in {self.folder}; start a new server for it")
        model, weights = load_causal_lm(path, dtype=self._dtype, tokenizer=voice.tokenizer), _fingerprint(path)
        self._engine.load_weights(model.named_parameters(), self.version + 1)
        self.weights = weights
        self.folder, self.voice, self.version = folder, voice, self.version + 1
        return self.version


def _fingerprint(folder: Path) -> str:
    """Return what tells the model in ``folder`` from others, whatever its place."""
    return f"weights-{frozen_model('the policy', str(folder), ALONE).content[:16]}"


Decode = Callable[[list[int]], str]


def as_prompts(ids: list[list[int]], count: int) -> list[np.ndarray]:
    """Return every one of ``ids`` ``count`` times."""
    return [np.asarray(one, np.int64) for one in ids for _ in range(count)]
