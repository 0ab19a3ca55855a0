"""Balance the experts of a model: count what routers choose, and add the gradient of the balancing loss.

The loss is that of Fedus et al. 2021 (equation 4) in transformers' form, over all layers with experts as if they were
one: E * sum over experts of f * P, where f is the number of times that an expert is chosen and P its mean probability,
both per real token and layer. f has no gradient. So that micro-batches and layouts make no difference, f is that of all
tokens of an update, counted in a pass of its own, and a layer adds its share of the gradient where its probabilities
are made: the loss needs no way to the last pipeline stage.

Legend: M tokens, E experts, k experts a token, L layers with experts.
"""

from __future__ import annotations

import numpy as np
import paddle
from paddle.autograd import PyLayer

from alignment.architecture.experts import Experts
from alignment.parallel.tensor.regions import TensorRegion


class ExpertBalance:
    """The counts of one model's routers, and the gradient of its balancing loss."""

    def __init__(self, experts: Experts, num_layers: int) -> None:
        self.counts = np.zeros((num_layers, experts.count))
        """How often each expert of a layer was chosen."""
        self.probabilities = np.zeros((num_layers, experts.count))
        """The sums of their probabilities."""
        self.is_counting = False
        """Whether a pass without gradients is counted; those with gradients are if there are no ``slopes``."""
        self.is_filler = False
        """Whether the rows of the next pass count for nothing (``parallel.shares``); it is not balanced then."""
        self.slopes: np.ndarray | None = None
        """[E], the gradient of the loss for the probabilities of each token in each layer; None: nothing is added."""

    @property
    def reads_all(self) -> bool:
        """Whether the routers of all layers must see all tokens of a pass."""
        return self.is_counting or paddle.is_grad_enabled()

    def clear(self) -> None:
        """Begin an update."""
        self.counts[:], self.probabilities[:], self.slopes = 0.0, 0.0, None

    def slope(self, probabilities: paddle.Tensor, region: TensorRegion) -> paddle.Tensor:
        """Return ``probabilities`` [rows, E] of the tokens that this process holds, whose gradient gets the slopes."""
        if self.slopes is None or not paddle.is_grad_enabled():
            return probabilities
        first = region.group.index * region.rows if region.sequence_parallel else 0
        held = np.clip(region.num_tokens - first, 0, region.rows)
        return _AddSlopes.apply(probabilities, paddle.to_tensor(self.slopes, "float32"), int(held))

    def count(self, layer: int, probabilities: paddle.Tensor, chosen: np.ndarray) -> None:
        """Count the experts ``chosen`` [M, k] by ``probabilities`` [M, E] in a layer, if this pass counts."""
        counts_gradients = paddle.is_grad_enabled() and self.slopes is None
        if not (self.is_counting or counts_gradients):
            return
        self.counts[layer] += np.bincount(chosen.reshape(-1), minlength=self.counts.shape[1])
        self.probabilities[layer] += probabilities.detach().astype("float64").sum(axis=0).numpy()


def balancing_loss(counts: np.ndarray, probabilities: np.ndarray, num_tokens: int) -> float:
    """Return the loss for the ``counts`` [L, E] and sums of ``probabilities`` [L, E] of ``num_tokens`` tokens."""
    total = num_tokens * counts.shape[0]
    return counts.shape[1] * float((counts.sum(axis=0) / total * probabilities.sum(axis=0) / total).sum())


def loss_slopes(counts: np.ndarray, num_tokens: int, coefficient: float) -> np.ndarray:
    """Return the gradient [E] of ``coefficient`` times the loss for the probabilities of one token in one layer."""
    total = num_tokens * counts.shape[0]
    return coefficient * counts.shape[1] * counts.sum(axis=0) / total / total


def load_statistics(counts: np.ndarray) -> dict[str, float]:
    """Return statistics of ``counts`` [L, E]: the means over layers, but the number of unused experts of all.

    ``load_max`` is the load of the busiest expert, 1 if all have the same; ``load_entropy`` is 1 then, and 0 if one
    expert has everything.
    """
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1.0)
    logs = np.log(np.where(shares > 0, shares, 1.0))
    return {
        "load_max": float(shares.max(axis=1).mean()) * counts.shape[1],
        "load_entropy": float(-(shares * logs).sum(axis=1).mean() / np.log(max(2, counts.shape[1]))),
        "unused_experts": float((counts == 0).sum()),
    }


class _AddSlopes(PyLayer):
    """y = x; the gradient of the first ``held`` rows gets ``slopes`` [E] added."""

    @staticmethod
    def forward(ctx, x, slopes, held):
        ctx.save_for_backward(slopes)
        ctx.held = held
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        (slopes,) = ctx.saved_tensor()
        rows = (paddle.arange(grad.shape[0]) < ctx.held).astype(grad.dtype)
        return grad + rows.unsqueeze(-1) * slopes.astype(grad.dtype), None
