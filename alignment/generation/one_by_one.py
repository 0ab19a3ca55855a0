"""A ``live.RunningBatch`` over any engine, which answers one request after the other."""

from __future__ import annotations

from collections import deque

from alignment.errors import UserError
from alignment.generation.engine import Engine
from alignment.generation.live import Ask, Growth


class OneByOne:
    """Answers each request whole, in order of arrival; its pieces are whole answers."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._asks: deque[Ask] = deque()

    @property
    def num_running(self) -> int:
        """See ``RunningBatch``."""
        return sum(len(ask.prompts) for ask in self._asks)

    def submit(self, ask: Ask) -> None:
        """See ``RunningBatch``; a prompt that cannot be answered is found by ``step``."""
        if ask.num_likeliest:
            raise UserError("this engine does not tell the likeliest tokens; leave top_logprobs out")
        self._asks.append(ask)

    def cancel(self, ask: Ask) -> None:
        """See ``RunningBatch``."""
        if ask in self._asks:
            self._asks.remove(ask)

    def step(self) -> list[Growth]:
        """See ``RunningBatch``: answer the oldest request."""
        ask = self._asks.popleft()
        found = self._engine.generate(ask.prompts, ask.options, seed=ask.seed, sequence_ids=ask.sequence_ids)
        return [
            Growth(ask, choice, one.token_ids.tolist(), one.logprobs.tolist(), (), one.finish_reason)
            for choice, one in enumerate(found)
        ]
