"""Products with the vocabulary head: logits in at least float32, and the head's gradient summed in that precision.

T tokens, hidden size H, vocabulary size V (or a process's part of it).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import paddle

from alignment.ops import device_kernels
from alignment.ops.pieces import tokens_at_once
from alignment.ops.precision import is_half, scale_by, widen
from alignment.ops.products import product, weight_grad
from alignment.ops.softmax import soft_cap


def split_temperature(hidden: paddle.Tensor, temperature: float, *, cap: float = 0.0) -> tuple[paddle.Tensor, float]:
    """Return (hidden states for the head, the factor by which their logits must still be divided).

    In half precision the float32 logits are divided: dividing the states would round them a second time. So are those
    with a ``cap``, which comes before the division.
    """
    keeps = cap > 0 or is_half(hidden)
    return (hidden, temperature) if keeps else (scale_by(hidden, 1.0 / temperature), 1.0)


@dataclass(frozen=True)
class HeadProduct:
    """A vocabulary head, its soft-cap, and the temperature by which its logits are divided."""

    weight: paddle.Tensor
    """[H, V], or [V, H] when ``transposed``."""
    transposed: bool = False
    temperature: float = 1.0
    cap: float = 0.0
    """A product x becomes cap tanh(x / cap) before the division; 0: it stays."""

    @property
    def columns(self) -> int:
        """V, the size of the vocabulary."""
        return self.weight.shape[0 if self.transposed else 1]

    def pieces(self, num_tokens: int) -> list[slice]:
        """Return slices of ``num_tokens`` tokens whose logits are computed at once."""
        is_large = is_half(self.weight) and device_kernels.on_device(self.weight)
        step = tokens_at_once(self.columns, on_device=is_large)
        return [slice(i, min(i + step, num_tokens)) for i in range(0, num_tokens, step)]

    def logits(self, hidden: paddle.Tensor) -> paddle.Tensor:
        """Return hidden @ weight, capped, / temperature, [T, V], for hidden [T, H].

        For half precision on a GPU the product is not rounded, and not differentiable.
        """
        if device_kernels.has_wide_product(hidden):
            logits = device_kernels.add_wide_product(None, hidden.t(), self._inputs_first)
        else:
            logits = widen(product(hidden, self.weight, transpose_weight=self.transposed))
        return scale_by(soft_cap(logits, self.cap), 1.0 / self.temperature)

    def bend(self, logits: paddle.Tensor) -> paddle.Tensor | None:
        """Return the derivative [T, V] of the soft-cap, for ``slope``, from ``logits`` [T, V]; None without a cap."""
        if not self.cap:
            return None
        share = logits * (self.temperature / self.cap)
        return 1.0 - share * share

    @cached_property
    def _inputs_first(self) -> paddle.Tensor:
        """[H, V], in memory as the kernel reads it: it would copy a transposed view for every piece."""
        return self.weight.t().contiguous() if self.transposed else self.weight

    def slope(self, logit_grad: paddle.Tensor, bend: paddle.Tensor | None = None) -> paddle.Tensor:
        """Return the gradient [T, V] of the product from that of the logits and ``bend``, in the head's dtype."""
        logit_grad = logit_grad if bend is None else logit_grad * bend
        return scale_by(logit_grad, 1.0 / self.temperature).astype(self.weight.dtype)

    def hidden_grad(self, slope: paddle.Tensor) -> paddle.Tensor:
        """Return the gradient [T, H] of the hidden states from ``slope`` [T, V]."""
        return product(slope, self.weight, transpose_weight=not self.transposed)

    def add_weight_grad(
        self, total: paddle.Tensor | None, hidden: paddle.Tensor, slope: paddle.Tensor
    ) -> paddle.Tensor | None:
        """Return ``total`` (None: zero) plus the head's gradient from hidden [T, H] and ``slope`` [T, V].

        For half precision the total is float32; ``rounded`` converts the final one. A frozen head has none (None).
        """
        if self.weight.stop_gradient:
            return None
        pair = (slope, hidden) if self.transposed else (hidden, slope)
        if device_kernels.has_wide_product(hidden):
            return device_kernels.add_wide_product(total, *pair)
        added = widen(weight_grad(*pair))
        return added if total is None else total.add_(added)

    def rounded(self, total: paddle.Tensor | None) -> paddle.Tensor | None:
        """Return the head's gradient ``total`` in the head's dtype."""
        return total if total is None or total.dtype == self.weight.dtype else total.astype(self.weight.dtype)
