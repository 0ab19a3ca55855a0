"""Draw a token for every row on the device of its logits: ``sampling`` with Paddle's operators.

Steps, random numbers and the precision of sums (float64) are those of the host's sampler, so both draw the same tokens
unless a random number is within rounding of a boundary. Only tokens and log-probs are copied to the host. B rows,
vocabulary size V.
"""

from __future__ import annotations

import numpy as np
import paddle

from alignment.generation.engine import GenerationOptions
from alignment.generation.sampling import Restrictions, check_largest


class DeviceSampler:
    """Draws the same tokens as ``Sampler``; everything of size V stays on the device."""

    def __init__(
        self,
        options: GenerationOptions,
        prompts: list[np.ndarray],
        uniforms: np.ndarray,
        *,
        vocab_size: int,
        usable_vocab_size: int | None = None,
    ) -> None:
        """See ``Sampler``."""
        host = Restrictions(options, prompts, vocabulary=range(vocab_size), usable_vocab_size=usable_vocab_size)
        self._options = options
        self._uniforms = paddle.to_tensor(np.asarray(uniforms, np.float64))
        self._ids = paddle.arange(vocab_size)
        self._temperature, self._penalty = (
            paddle.to_tensor(np.float32(number)) for number in (options.temperature, options.repetition_penalty)
        )
        self._seen = None if host.seen is None else paddle.to_tensor(host.seen)
        self._forbidden = {early: _to_device(host.forbidden(early)) for early in (True, False)}

    def keep(self, rows: np.ndarray) -> None:
        """Drop all other rows."""
        wanted = paddle.to_tensor(rows)
        self._uniforms = paddle.index_select(self._uniforms, wanted)
        self._seen = None if self._seen is None else paddle.index_select(self._seen, wanted)

    def draw(self, logits: paddle.Tensor, step: int) -> tuple[np.ndarray, np.ndarray]:
        """See ``Sampler.draw``; logits [B, V] float32."""
        options, rows = self._options, paddle.arange(logits.shape[0])
        scaled = self._divide(logits)
        weights, log_total = exponentiate(scaled)
        allowed = self._restrict(logits, step)
        if not options.do_sample:
            tokens = self._first(scaled if allowed is None else allowed)
        else:
            if allowed is not None:
                weights, _ = exponentiate(self._divide(allowed))
            tokens = self._pick(keep_likeliest(weights, options.top_k, options.top_p), self._uniforms[:, step])
        if self._seen is not None:
            self._seen = paddle.index_put(self._seen, (rows, tokens), paddle.ones([], "bool"))
        chosen = paddle.gather_nd(scaled, paddle.stack([rows, tokens], axis=1)).astype("float64") - log_total
        # Token ids are exact in float64. A row that holds NaN or infinity has a sum that is not finite.
        found, logprobs, totals = paddle.stack([tokens.astype("float64"), chosen, log_total]).numpy()
        check_largest(totals, step)
        return found.astype(np.int64), logprobs.astype(np.float32)

    def _divide(self, logits: paddle.Tensor) -> paddle.Tensor:
        return logits if self._options.temperature == 1.0 else paddle.divide(logits, self._temperature)

    def _restrict(self, logits: paddle.Tensor, step: int) -> paddle.Tensor | None:
        """Return the logits after penalty and masks, None if they do not change."""
        forbidden = self._forbidden[step < self._options.min_new_tokens]
        if self._seen is None and forbidden is None:
            return None
        if self._seen is not None:
            less = paddle.where(logits < 0, logits * self._penalty, paddle.divide(logits, self._penalty))
            logits = paddle.where(self._seen, less, logits)
        return logits if forbidden is None else paddle.where(forbidden, paddle.full([], -np.inf, "float32"), logits)

    def _first(self, scores: paddle.Tensor) -> paddle.Tensor:
        """Return the first token [B] with the largest score of its row."""
        largest = scores == scores.max(axis=-1, keepdim=True)
        return self._lowest(largest, otherwise=paddle.zeros([], "int64"))

    def _pick(self, weights: paddle.Tensor, uniforms: paddle.Tensor) -> paddle.Tensor:
        """Return the first token [B] whose cumulative weight exceeds uniform * total; see ``sampling.pick``.

        A token without weight is never picked, however parallel sums are rounded.
        """
        shares = paddle.cumsum(weights, axis=-1, dtype="float64")
        goal = (uniforms * shares[:, -1]).unsqueeze(-1)
        has_weight = weights > 0
        last = paddle.where(has_weight, self._ids, paddle.zeros_like(self._ids)).max(axis=-1)
        return self._lowest(paddle.logical_and(shares > goal, has_weight), otherwise=last)

    def _lowest(self, where: paddle.Tensor, *, otherwise: paddle.Tensor) -> paddle.Tensor:
        """Return the first id [B] at which ``where`` [B, V] is True, ``otherwise`` for rows without one."""
        size = paddle.full([], len(self._ids), "int64")
        lowest = paddle.where(where, self._ids, size).min(axis=-1)
        return paddle.where(lowest < size, lowest, otherwise)


def _to_device(mask: np.ndarray | None) -> paddle.Tensor | None:
    return None if mask is None else paddle.to_tensor(mask)


def exponentiate(scaled: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
    """Return (exp(scaled - max) [B, V] float32, log sum exp(scaled) [B] float64)."""
    top = scaled.max(axis=-1, keepdim=True)
    # CPU kernels do not give exactly 0 for exp(-inf).
    weights = paddle.where(scaled == -np.inf, paddle.zeros([]), paddle.exp(scaled - top))
    return weights, top[:, 0].astype("float64") + paddle.log(weights.sum(axis=-1, dtype="float64"))


def keep_likeliest(weights: paddle.Tensor, top_k: int, top_p: float) -> paddle.Tensor:
    """Return weights [B, V] with all but the top-k and then the top-p tokens set to zero; see ``sampling``."""
    if 0 < top_k < weights.shape[1]:
        weights = _drop_below(weights, paddle.topk(weights, top_k, axis=-1)[0][:, -1:])
    if top_p < 1.0:
        ascending = paddle.sort(weights, axis=-1)
        shares = paddle.cumsum(ascending, axis=-1, dtype="float64")
        below = shares <= shares[:, -1:] * (1.0 - top_p)
        dropped = below[:, :-1].astype("int64").sum(axis=-1, keepdim=True)
        weights = _drop_below(weights, paddle.take_along_axis(ascending, dropped, axis=-1))
    return weights


def _drop_below(weights: paddle.Tensor, bound: paddle.Tensor) -> paddle.Tensor:
    return paddle.where(weights >= bound, weights, paddle.zeros([]))
