"""The experts of a layer, for generation: only those that a token chooses are computed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import paddle
import paddle.nn.functional as F

from alignment.architecture.experts import Experts
from alignment.generation.eager.decoder_weights import ExpertWeights, RoutedWeights
from alignment.ops.expert_routing import Dispatch, choose_experts, expert_weights, routing_probabilities


def run_experts(
    weights: RoutedWeights, x: paddle.Tensor, experts: Experts, *, note: Callable[[np.ndarray], None] | None = None
) -> paddle.Tensor:
    """Return this process's share [M, H] of the sum of the experts that each token of x [M, H] chooses.

    ``note`` is given the choices [M, k], the likeliest first.
    """
    probabilities = routing_probabilities(weights.router(x))
    chosen = choose_experts(probabilities, experts.top_k)
    by_expert = expert_weights(probabilities, chosen, normalises=experts.normalises)
    numbers = chosen.numpy()
    if note is not None:
        note(numbers)
    dispatch = Dispatch.build(numbers, range(weights.first, weights.first + len(weights.experts)))
    parts = dispatch.send(x)
    given = zip(weights.experts, parts, strict=True)
    total = dispatch.collect([_network(e, part) for e, part in given if part.shape[0]] or parts[:1], by_expert)
    if weights.shared is not None:
        total = total + F.sigmoid(weights.switch(x)) * _network(weights.shared, x)
    return total


def _network(weights: ExpertWeights, x: paddle.Tensor) -> paddle.Tensor:
    return weights.down(F.silu(weights.gate(x)).multiply_(weights.up(x)))
