"""Route tokens to experts: which ones a token is given to, with which weights, and the way there and back.

Legend: M tokens, E experts, k experts a token, R = M * k routed copies, sorted by expert. No expert has a limit on its
tokens, so none is dropped.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle.autograd import PyLayer


def routing_probabilities(logits: paddle.Tensor) -> paddle.Tensor:
    """Return the softmax [M, E], in float32, of a router's ``logits`` [M, E]."""
    return F.softmax(logits if logits.dtype == paddle.float64 else logits.astype("float32"), axis=-1)


def choose_experts(probabilities: paddle.Tensor, top_k: int) -> paddle.Tensor:
    """Return the numbers [M, k] int64 of each token's likeliest experts, the likeliest first."""
    with paddle.no_grad():
        return paddle.topk(probabilities, top_k, axis=-1)[1]


def expert_weights(probabilities: paddle.Tensor, chosen: paddle.Tensor, *, normalises: bool) -> paddle.Tensor:
    """Return the weights [M, k] of the ``chosen`` experts [M, k]; with ``normalises`` a token's add up to 1."""
    weights = paddle.take_along_axis(probabilities, chosen, axis=1)
    return weights / weights.sum(axis=-1, keepdim=True) if normalises else weights


@dataclass(frozen=True, slots=True)
class Dispatch:
    """The copies of tokens for this process's experts, by expert; those of one expert keep the order of their tokens.

    Where other processes have the other experts, R counts only the copies for the experts here.
    """

    counts: tuple[int, ...]
    """The copies that each expert here gets."""
    order: paddle.Tensor
    """[R] int64, of each copy its place among the M * k copies in the order of tokens."""
    tokens: paddle.Tensor
    """[R] int64, of each copy its token."""
    places: paddle.Tensor
    """[M * k] int64, of each copy in the order of tokens its place among the R; R if its expert is not here."""
    top_k: int

    @classmethod
    def build(cls, chosen: np.ndarray, experts: range) -> Dispatch:
        """Build for the experts ``chosen`` [M, k]; those of this process are ``experts``."""
        flat, top_k = chosen.reshape(-1), chosen.shape[1]
        order = np.argsort(flat, kind="stable")
        first, last = np.searchsorted(flat[order], [experts.start, experts.stop])
        order = order[first:last]
        places = np.full(len(flat), len(order), np.int64)
        places[order] = np.arange(len(order))
        counts = np.bincount(flat[order] - experts.start, minlength=len(experts))
        arrays = (paddle.to_tensor(array.astype(np.int64)) for array in (order, order // top_k, places))
        return cls(tuple(counts.tolist()), *arrays, top_k)

    def send(self, x: paddle.Tensor) -> list[paddle.Tensor]:
        """Return for every expert here its tokens [n, H] of x [M, H]; n may be 0."""
        copies = _Send.apply(x, self)
        return paddle.split(copies, list(self.counts)) if copies.shape[0] else [copies] * len(self.counts)

    def collect(self, outputs: list[paddle.Tensor], weights: paddle.Tensor) -> paddle.Tensor:
        """Return for every token [M, H] the sum of its experts' ``outputs`` ([n, H] each) by ``weights`` [M, k]."""
        copies = paddle.concat(outputs)
        by_expert = paddle.gather(weights.reshape([-1]), self.order).astype(copies.dtype)
        return _Collect.apply(copies * by_expert.unsqueeze(-1), self)

    def _copies(self, x: paddle.Tensor) -> paddle.Tensor:
        return paddle.gather(x, self.tokens)

    def _sums(self, copies: paddle.Tensor) -> paddle.Tensor:
        (num_copies, width), places = copies.shape, self.places.shape[0]
        if num_copies < places:
            copies = paddle.concat([copies, paddle.zeros([1, width], copies.dtype)])
        return paddle.gather(copies, self.places).reshape([places // self.top_k, self.top_k, width]).sum(axis=1)


class _Send(PyLayer):
    """Copies of tokens; the gradient of a token is the sum of those of its copies, always in the same order."""

    @staticmethod
    def forward(ctx, x, dispatch):
        ctx.dispatch = dispatch
        return dispatch._copies(x)

    @staticmethod
    def backward(ctx, grad):
        return ctx.dispatch._sums(grad)


class _Collect(PyLayer):
    """Sums of copies; the gradient of a copy is that of its token."""

    @staticmethod
    def forward(ctx, copies, dispatch):
        ctx.dispatch = dispatch
        return dispatch._sums(copies)

    @staticmethod
    def backward(ctx, grad):
        return ctx.dispatch._copies(grad)
