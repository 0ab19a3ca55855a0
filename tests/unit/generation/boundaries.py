"""Two engines may fall to either side of a boundary between two tokens: their logits differ in the last bits.

How they differ depends on the processor's instruction set, and of thousands of draws one now and then comes that near.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import paddle

from alignment.generation.engine import GenerationOptions
from alignment.generation.random_numbers import uniform
from alignment.generation.sampling import Sampler
from alignment.models.decoder.decoder import CausalLM
from alignment.records import Completion

WIDTH = 3e-5
"""How far a random number may be from the boundary; log-probs of the engines differ by 2e-5 at most."""


@dataclass(frozen=True)
class Draws:
    """What both engines were asked: sequence ids are the numbers of the prompts."""

    model: CausalLM
    prompts: Sequence[Sequence[int]]
    options: GenerationOptions
    seed: int = 1
    usable: int | None = None

    def assert_same(self, found: Sequence[Completion], wanted: Sequence[Completion], *, atol: float) -> None:
        """Tokens, ends and log-probs are equal; behind a draw on a boundary up to two rows may go another way."""
        parted = [row for row, pair in enumerate(zip(found, wanted, strict=True)) if self._part(row, *pair, atol=atol)]
        assert len(parted) <= 2, f"rows {parted} differ"

    def _part(self, row: int, one: Completion, other: Completion, *, atol: float) -> bool:
        """Return whether the row parts at a boundary; AssertionError where it differs in any other way."""
        assert one.token_ids.dtype == other.token_ids.dtype and one.logprobs.dtype == other.logprobs.dtype
        length = min(len(one.token_ids), len(other.token_ids))
        differing = np.flatnonzero(one.token_ids[:length] != other.token_ids[:length])
        same = differing[0] if len(differing) else length
        np.testing.assert_allclose(one.logprobs[:same], other.logprobs[:same], atol=atol, rtol=0)
        if not len(differing):
            assert len(one.token_ids) == len(other.token_ids) and one.finish_reason == other.finish_reason
            return False
        tokens = {int(completion.token_ids[same]) for completion in (one, other)}
        assert self._draw_around(row, one.token_ids[:same]) == tokens, f"row {row} differs at token {same}: {tokens}"
        return True

    def _draw_around(self, row: int, answer: np.ndarray) -> set[int]:
        """Return which tokens come behind ``answer`` for numbers a little smaller and larger than the one drawn."""
        step = len(answer)
        past = np.concatenate([self.prompts[row], answer]).astype(np.int64)
        with paddle.no_grad():
            logits = self.model(paddle.to_tensor(past[None])).numpy()[:, -1]
        options = replace(self.options, min_new_tokens=max(0, self.options.min_new_tokens - step))
        number = uniform(self.seed, np.array([row]), np.array([step]))
        limits = {"vocab_size": logits.shape[1], "usable_vocab_size": self.usable}
        samplers = (Sampler(options, [past], (number + side)[:, None], **limits) for side in (-WIDTH, WIDTH))
        return {int(sampler.draw(logits, 0)[0][0]) for sampler in samplers}
