"""Draw tokens with the compiled sampler; ``sampling.py`` is its specification."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from alignment.errors import NotFiniteError
from alignment.generation.engine import GenerationOptions
from alignment.generation.fused.scheduler import Step
from alignment.generation.fused.sequences import Sequence
from alignment.generation.fused.slots import Slots
from alignment.generation.sampling import check_logits
from alignment.ops.native.library import CoreLibrary, Sampling


def sampling_of(options: GenerationOptions, vocab_size: int, usable_vocab_size: int | None) -> Sampling:
    """Return ``options`` for the kernels; ids from ``usable_vocab_size`` on are never drawn."""
    return Sampling(
        usable_vocab=vocab_size if usable_vocab_size is None else min(usable_vocab_size, vocab_size),
        do_sample=options.do_sample,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        repetition_penalty=options.repetition_penalty,
        stop_token_ids=tuple(token for token in options.stop_token_ids if token < vocab_size),
    )


class FusedDrawer:
    """The ``SlotDrawer`` of one call of ``generate``; random numbers by (seed, sequence id, position in the answer)."""

    def __init__(
        self,
        core: CoreLibrary,
        options: GenerationOptions,
        *,
        seed: int,
        vocab_size: int,
        usable_vocab_size: int | None = None,
        num_slots: int,
        threads: int = 1,
    ) -> None:
        """Ids of ``usable_vocab_size`` and above are never drawn."""
        self._core, self._seed, self._threads = core, seed, threads
        self._sampling = sampling_of(options, vocab_size, usable_vocab_size)
        self._min_new_tokens = options.min_new_tokens if self._sampling.stop_token_ids else 0
        penalised = options.repetition_penalty != 1.0
        self._seen = np.zeros((num_slots, vocab_size), bool) if penalised else None

    def enter(self, sequences: Iterable[Sequence]) -> None:
        """See ``SlotDrawer.enter``."""
        if self._seen is not None:
            for sequence in sequences:
                self._seen[sequence.slot] = False
                self._seen[sequence.slot, sequence.tokens] = True

    def draw(self, logits: np.ndarray, step: Step, slots: Slots) -> tuple[np.ndarray, np.ndarray]:
        """See ``SlotDrawer.draw``; raises NotFiniteError for logits without a finite maximum."""
        drawn, seen = step.drawn_slots, self._seen
        places = slots.answered[drawn] + step.ahead
        uniforms = self._core.philox_uniform(self._seed, slots.sequence_ids[drawn], places)
        try:
            tokens, logprobs = self._core.sample(
                logits,
                uniforms,
                self._sampling,
                forbid_stops=places < self._min_new_tokens if self._min_new_tokens else None,
                seen=None if seen is None else [seen[slot] for slot in drawn],
                threads=self._threads,
            )
        except NotFiniteError:
            bad = ~np.isfinite(logits.max(axis=-1))
            check_logits(logits, int(places[bad][0]) if bad.any() else 0)
            raise
        if seen is not None:
            seen[drawn, tokens] = True
        return tokens, logprobs
