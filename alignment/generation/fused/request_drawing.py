"""Draw tokens for answers of several requests, each with its own options and seed."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from alignment.generation.fused.fused_drawing import sampling_of
from alignment.generation.fused.scheduler import Step
from alignment.generation.fused.sequences import Sequence
from alignment.generation.fused.slots import Slots
from alignment.generation.live import Likeliest
from alignment.ops.native.library import CoreLibrary, Sampling


class RequestDrawer:
    """A ``SlotDrawer`` that reads seed and options of every slot from its sequence's ``ask``."""

    def __init__(
        self,
        core: CoreLibrary,
        *,
        vocab_size: int,
        usable_vocab_size: int | None,
        num_slots: int,
        max_answer: int,
        threads: int = 1,
    ) -> None:
        """Ids of ``usable_vocab_size`` and above are never drawn; an answer has at most ``max_answer`` tokens."""
        self._core, self._threads = core, threads
        self._vocab, self._usable = vocab_size, usable_vocab_size
        self._uniforms = np.zeros((num_slots, max_answer))
        self._min_new_tokens = np.zeros(num_slots, np.int64)
        self._samplings: list[Sampling | None] = [None] * num_slots
        self._seen: dict[int, np.ndarray] = {}

    def enter(self, sequences: Iterable[Sequence]) -> None:
        """See ``SlotDrawer.enter``; the random numbers of the whole answer are drawn here."""
        for sequence in sequences:
            ask, slot = sequence.ask, sequence.slot
            self._samplings[slot] = sampling_of(ask.options, self._vocab, self._usable)
            self._min_new_tokens[slot] = ask.options.min_new_tokens
            ids = np.full(sequence.limit, sequence.sequence_id & 0xFFFFFFFFFFFFFFFF, np.uint64)
            places = np.arange(sequence.limit)
            self._uniforms[slot, : sequence.limit] = self._core.philox_uniform(ask.seed, ids, places)
            self._seen.pop(slot, None)
            if ask.options.repetition_penalty != 1.0:
                seen = self._seen[slot] = np.zeros(self._vocab, bool)
                seen[sequence.tokens] = True

    def draw(self, logits: np.ndarray, step: Step, slots: Slots) -> tuple[np.ndarray, np.ndarray]:
        """See ``SlotDrawer.draw``; raises NotFiniteError for logits without a finite maximum."""
        drawn = step.drawn_slots
        groups: dict[Sampling, list[int]] = {}
        for row, slot in enumerate(drawn.tolist()):
            groups.setdefault(self._samplings[slot], []).append(row)
        if len(groups) == 1:
            return self._draw(logits, drawn, slots)
        tokens, logprobs = np.empty(len(drawn), np.int64), np.empty(len(drawn), np.float32)
        for rows in groups.values():
            tokens[rows], logprobs[rows] = self._draw(logits[rows], drawn[rows], slots)
        return tokens, logprobs

    def likeliest(self, logits: np.ndarray, owners: list[Sequence]) -> list[tuple[Likeliest, ...]]:
        """Return for each row of logits [L, V] its likeliest tokens, in a list; an empty one where none are wanted."""
        return [
            (_likeliest(logits[row], sequence.ask.options.temperature, sequence.ask.num_likeliest),)
            if sequence.ask.num_likeliest
            else ()
            for row, sequence in enumerate(owners)
        ]

    def _draw(self, logits: np.ndarray, drawn: np.ndarray, slots: Slots) -> tuple[np.ndarray, np.ndarray]:
        """Draw for ``drawn`` slots [L], which share their options."""
        sampling, places = self._samplings[drawn[0]], slots.answered[drawn]
        forbid = places < self._min_new_tokens[drawn]
        penalises = sampling.repetition_penalty != 1.0
        seen = [self._seen[slot] for slot in drawn.tolist()] if penalises else None
        tokens, logprobs = self._core.sample(
            logits,
            self._uniforms[drawn, places],
            sampling,
            forbid_stops=forbid if sampling.stop_token_ids and forbid.any() else None,
            seen=seen,
            threads=self._threads,
        )
        if penalises:
            for slot, token in zip(drawn.tolist(), tokens.tolist(), strict=True):
                self._seen[slot][token] = True
        return tokens, logprobs


def _likeliest(logits: np.ndarray, temperature: float, count: int) -> Likeliest:
    """Return the ``count`` likeliest tokens of logits [V] with their log-probs at ``temperature``."""
    scaled = logits.astype(np.float64) / temperature
    top = scaled.max()
    total = top + np.log(np.exp(scaled - top).sum())
    count = min(count, len(scaled))
    best = np.argpartition(-scaled, count - 1)[:count]
    best = best[np.argsort(-scaled[best], kind="stable")]
    return tuple((int(token), float(scaled[token] - total)) for token in best)
