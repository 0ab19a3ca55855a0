"""Draw a token for every row, the same on all processes that share the model.

B rows, vocabulary size V, v its local part. Greedy decoding compares the best token of each part without gathering
logits; sampling gathers them, [B, V] for one step at a time.
"""

from __future__ import annotations

import numpy as np
import paddle

from alignment.architecture.parts import even_cut
from alignment.errors import NotFiniteError
from alignment.generation.device_sampling import DeviceSampler
from alignment.generation.engine import GenerationOptions
from alignment.generation.engine_placement import EnginePlacement
from alignment.generation.sampling import Restrictions, Sampler, check_largest
from alignment.parallel.comms.group import Group


class Drawer:
    """Draws tokens on the last stage, which has the logits, and broadcasts them to all stages."""

    def __init__(
        self,
        options: GenerationOptions,
        prompts: list[np.ndarray],
        uniforms: np.ndarray,
        *,
        vocab_size: int,
        usable_vocab_size: int | None,
        placement: EnginePlacement,
        on_device: bool = False,
    ) -> None:
        """See ``Sampler``; ``on_device``: logits are drawn from where they are, and not copied to the host."""
        self._placement = placement
        self._vocab_size = vocab_size
        self._in_parts = not options.do_sample and placement.tensor.size > 1 and not on_device
        self._on_device = on_device
        limits = {"vocab_size": vocab_size, "usable_vocab_size": usable_vocab_size}
        if self._in_parts:
            self._sampler = GreedyInParts(options, prompts, group=placement.tensor, **limits)
        else:
            kind = DeviceSampler if on_device else Sampler
            self._sampler = kind(options, prompts, uniforms, **limits)

    def keep(self, rows: np.ndarray) -> None:
        """Drop all other rows."""
        self._sampler.keep(rows)

    def draw(self, logits: paddle.Tensor | None, step: int, *, num_rows: int) -> tuple[np.ndarray, np.ndarray]:
        """Return (tokens [B] int64, log-probs [B] float32) for local logits [B, v], which only the last stage has.

        NotFiniteError on all processes if logits are NaN or infinite.
        """
        pipeline = self._placement.pipeline
        if pipeline.size == 1:
            return self._draw_here(logits, step)
        drawn, failure = np.zeros([2, num_rows]), ""
        if pipeline.is_last:
            try:
                drawn[:] = self._draw_here(logits, step)
            except NotFiniteError as error:
                drawn[:], failure = -1, str(error)
        tokens, logprobs = _broadcast(pipeline, drawn, pipeline.size - 1)
        if (tokens < 0).any():
            raise NotFiniteError(pipeline.share_object(failure, pipeline.size - 1, "why no token was sampled"))
        return tokens, logprobs

    def _draw_here(self, logits: paddle.Tensor, step: int) -> tuple[np.ndarray, np.ndarray]:
        if not self._in_parts:
            logits = gather_logits(logits, self._placement.tensor, vocab_size=self._vocab_size)
        if not self._on_device:
            return self._sampler.draw(logits.numpy(), step)
        drawn = self._sampler.draw(logits, step)
        tensor = self._placement.tensor
        # A GPU's sums have no fixed order, so ranks with the same logits may draw different tokens.
        return drawn if tensor.size == 1 else _broadcast(tensor, np.stack(drawn), 0)


def _broadcast(group: Group, drawn: np.ndarray, source: int) -> tuple[np.ndarray, np.ndarray]:
    """Return what the member ``source`` drew (tokens, log-probs); both are exact in float64."""
    tokens, logprobs = group.broadcast_(paddle.to_tensor(drawn), source, "sampled tokens").numpy()
    return tokens.astype(np.int64), logprobs.astype(np.float32)


def gather_logits(logits: paddle.Tensor, group: Group, *, vocab_size: int) -> paddle.Tensor:
    """Return logits [B, V] on all processes of ``group``, each of which has a part [B, v] (see ``even_cut``)."""
    if group.size == 1:
        return logits
    sizes = [stop - start for start, stop in (even_cut(vocab_size, group.size, index) for index in range(group.size))]
    missing = max(sizes) - logits.shape[1]
    if missing:
        logits = paddle.concat([logits, paddle.zeros([logits.shape[0], missing], logits.dtype)], axis=1)
    parts = group.gather(logits, "logits of one step")
    return paddle.concat([part[:, :size] for part, size in zip(parts, sizes, strict=True)], axis=1)


class GreedyInParts:
    """Picks the likeliest token of a vocabulary split over ``group``; ties give the lowest id."""

    def __init__(
        self,
        options: GenerationOptions,
        prompts: list[np.ndarray],
        *,
        group: Group,
        vocab_size: int,
        usable_vocab_size: int | None,
    ) -> None:
        """See ``Sampler``."""
        self._group = group
        self._vocab_size = vocab_size
        self._temperature = np.float32(options.temperature)
        self._vocabulary = range(*even_cut(vocab_size, group.size, group.index))
        self._restrictions = Restrictions(
            options, prompts, vocabulary=self._vocabulary, usable_vocab_size=usable_vocab_size
        )

    def keep(self, rows: np.ndarray) -> None:
        """Drop all other rows."""
        self._restrictions.keep(rows)

    def draw(self, logits: np.ndarray, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Return (tokens [B] int64, log-probs [B] float32) for the local logits [B, v]; see ``Sampler.draw``."""
        rows, scaled = np.arange(len(logits)), logits / self._temperature
        restricted = self._restrictions.apply(logits, step)
        allowed = logits if restricted is None else restricted
        local = allowed.argmax(axis=-1)
        # A maximum over processes may lose NaN; infinity survives and is refused too.
        tops = np.stack([np.where(np.isnan(x), np.inf, x) for x in (scaled.max(axis=-1), allowed[rows, local])])
        largest, best = self._group.max_(paddle.to_tensor(tops), "likeliest tokens").numpy()
        check_largest(largest, step)
        candidates = np.where(tops[1] == best, self._vocabulary.start + local, self._vocab_size)
        tokens = -self._group.max_(paddle.to_tensor(-candidates), "likeliest tokens").numpy()
        mine = tokens == candidates
        weights = np.exp(scaled - largest[:, None]).sum(axis=-1, dtype=np.float64)
        sums = np.stack([weights, np.where(mine, scaled[rows, local] - largest, 0)])
        totals, chosen = self._group.sum_(paddle.to_tensor(sums), "log-probs").numpy()
        self._restrictions.add(rows, tokens)
        return tokens, (chosen - np.log(totals)).astype(np.float32)
