"""The rows that pass through the stages together, and the work they need next."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import paddle

from alignment.generation.drawing import Drawer
from alignment.generation.eager.forward import DecoderForward, Tokens
from alignment.generation.eager.kv_cache import KVCache
from alignment.generation.eager.recorded_experts import ExpertsByRow
from alignment.generation.eager.relay import Piece
from alignment.generation.eager.stopping import Answers
from alignment.parallel.comms.group import Group
from alignment.records import Completion

_COMPACT_BELOW = 0.75
"""Finished rows are dropped, which copies the cache, if the share of unfinished rows falls below this."""


class RowGroup:
    """The prompts, caches and answers of B rows; all but the caches are the same on every stage."""

    def __init__(
        self,
        prompts: list[np.ndarray],
        *,
        forward: DecoderForward,
        cache: KVCache,
        drawer: Drawer,
        answers: Answers,
        record: ExpertsByRow | None = None,
    ) -> None:
        """``record`` keeps the experts that tokens are given to."""
        self.answers = answers
        self._record = record
        self._prompts, self._forward, self._cache, self._drawer = prompts, forward, cache, drawer
        self._logits: list[paddle.Tensor | None] = []
        self._tokens: np.ndarray | None = None

    def read_prompts(self) -> Iterator[Piece]:
        """Yield the pieces of the prefill; the last one to finish draws the first tokens."""
        pieces = self._forward.prompt_groups([len(prompt) for prompt in self._prompts])
        for rows in pieces:
            tokens = self._forward.prompt_tokens(self._prompts, rows, self._cache, self._record)
            yield self._piece(tokens, partial(self._finish_prompts, num_pieces=len(pieces)))

    def next_step(self) -> Piece:
        """Return the piece that computes one more token."""
        note = self._record and self._record.at(self.answers.rows, self._cache.lengths.copy())
        return self._piece(self._forward.next_tokens(self._tokens, self._cache, note), self._finish_step)

    def completions(self, stages: Group) -> list[Completion]:
        """Return all answers in order, the same on all ``stages``."""
        completions = self.answers.completions()
        return completions if self._record is None else self._record.complete(completions, self._prompts, stages)

    def _piece(self, tokens: Tokens, finish) -> Piece:
        return Piece(len(tokens.ids), partial(self._forward.run, tokens), finish)

    def _finish_prompts(self, logits: paddle.Tensor | None, *, num_pieces: int) -> None:
        self._logits.append(logits)
        if len(self._logits) == num_pieces:
            whole = None if logits is None else paddle.concat(self._logits)
            self._logits = []
            self._finish_step(whole)

    def _finish_step(self, logits: paddle.Tensor | None) -> None:
        """Draw a token for every row, and drop finished rows if there are many."""
        answers = self.answers
        self._tokens, logprobs = self._drawer.draw(logits, answers.step, num_rows=len(answers.open))
        answers.add(self._tokens, logprobs)
        if not answers.done and answers.open.mean() < _COMPACT_BELOW:
            kept = np.flatnonzero(answers.open)
            self._tokens = self._tokens[kept]
            for part in (self._cache, self._drawer, answers):
                part.keep(kept)
