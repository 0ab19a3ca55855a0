"""Continuous batching for requests that arrive at any time, each with its own options and seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from alignment.generation.engine import GenerationOptions
from alignment.generation.fused.decode_loop import RowModel
from alignment.generation.fused.live_scheduler import LiveScheduler
from alignment.generation.fused.request_drawing import RequestDrawer
from alignment.generation.fused.sequences import Sequence as SequenceInFlight
from alignment.generation.fused.sequences import make_sequences
from alignment.generation.live import Ask, Growth

Check = Callable[[Sequence[SequenceInFlight], GenerationOptions], None]
"""UserError for sequences that the engine cannot answer."""


class LiveBatch:
    """A ``live.RunningBatch``: every step is one pass over all answers, and gives a token to each that decodes.

    An answer has the tokens that ``FusedEngine.generate`` gives it, whatever else runs.
    """

    def __init__(self, scheduler: LiveScheduler, model: RowModel, drawer: RequestDrawer, *, check: Check) -> None:
        self._scheduler, self._model, self._drawer, self._check = scheduler, model, drawer, check
        self._running: dict[Ask, list[SequenceInFlight]] = {}
        self._arrived = 0

    @property
    def num_running(self) -> int:
        """See ``RunningBatch``."""
        return sum(map(len, self._running.values()))

    @property
    def counts(self) -> Any:
        """Counts of passes and rows since the start."""
        return self._scheduler.counts

    def submit(self, ask: Ask) -> None:
        """See ``RunningBatch``."""
        sequences = make_sequences(ask.prompts, ask.limits, sequence_ids=ask.sequence_ids)
        self._check(sequences, ask.options)
        for sequence in sequences:
            sequence.choice, sequence.ask = sequence.index, ask
            sequence.index += self._arrived
        self._arrived += len(sequences)
        self._scheduler.submit(sequences)
        self._running[ask] = sequences

    def cancel(self, ask: Ask) -> None:
        """See ``RunningBatch``."""
        for sequence in reversed(self._running.pop(ask, [])):
            self._scheduler.remove(sequence)

    def step(self) -> list[Growth]:
        """See ``RunningBatch``."""
        scheduler = self._scheduler
        step = scheduler.plan()
        self._drawer.enter(step.entered)
        for source, target in step.copies:
            self._model.copy_block(source, target)
        logits = self._model.forward(step, scheduler.slots.block_tables)
        if not len(step.drawn_slots):
            scheduler.add(np.empty(0, np.int64), np.empty(0, np.float32))
            return []
        tokens, logprobs = self._drawer.draw(logits, step, scheduler.slots)
        owners = scheduler.owners(step.drawn_slots)
        likeliest = self._drawer.likeliest(logits, owners)
        scheduler.add(tokens, logprobs)
        pieces = zip(owners, tokens.tolist(), logprobs.tolist(), likeliest, strict=True)
        return [self._piece(*piece) for piece in pieces]

    def _piece(self, sequence: SequenceInFlight, token: int, logprob: float, likeliest: Any) -> Growth:
        ask, completion = sequence.ask, self._scheduler.take(sequence)
        reason = completion and completion.finish_reason
        if reason is None and token in ask.options.stop_token_ids:
            self._scheduler.remove(sequence)
            reason = "stop"
        elif reason == "length" and token in ask.options.stop_token_ids:
            reason = "stop"
        if reason is not None:
            self._running[ask].remove(sequence)
            if not self._running[ask]:
                del self._running[ask]
        return Growth(ask, sequence.choice, [token], [logprob], likeliest, reason)
