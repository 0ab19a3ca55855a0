"""The feed-forward blocks: a plain network, or one that chooses a few of many experts for each token."""

from __future__ import annotations

from collections.abc import Mapping

import paddle
import paddle.nn.functional as F
from paddle import nn

from alignment.architecture.experts import Experts
from alignment.architecture.family import EACH, Weight
from alignment.models.decoder.adapter_use import AdapterUse
from alignment.models.decoder.balancing import ExpertBalance
from alignment.models.decoder.layers import NumberedLayers, RoleLayers, build_layer
from alignment.models.decoder.replay import RecordedRoutes
from alignment.ops.activations import ACTIVATIONS, gated
from alignment.ops.expert_routing import Dispatch, choose_experts, expert_weights, routing_probabilities
from alignment.parallel.tensor.regions import TensorRegion

_EXPERT, _SHARED = "expert_", "shared_"


class FeedForward(RoleLayers):
    """This process's columns of a feed-forward block, gated or not."""

    def __init__(self, layers: Mapping[str, tuple[str, nn.Layer]], *, activation: str = "silu") -> None:
        super().__init__(layers)
        self._activation = activation

    def forward(
        self,
        x: paddle.Tensor,
        region: TensorRegion,
        use: AdapterUse,
        balance: ExpertBalance | None = None,
        routes: RecordedRoutes | None = None,
    ) -> paddle.Tensor:
        """Return [rows, H] for x [rows, H]; there is nothing to balance or to choose."""
        x = region.enter(x)
        return self["down"](self._inner(x, use), region, use)

    def partial(self, x: paddle.Tensor, use: AdapterUse) -> paddle.Tensor:
        """Return this process's share [M, H] of the sum for x [M, H]; the matrices have no biases."""
        return self["down"].product(self._inner(x, use), use)

    def _inner(self, x: paddle.Tensor, use: AdapterUse) -> paddle.Tensor:
        if (gate := self.get("gate")) is None:
            return ACTIVATIONS[self._activation](self["up"](x, use))
        return gated(self._activation, gate(x, use), self["up"](x, use))


class ExpertFeedForward(RoleLayers):
    """The sum of the experts that a router chooses for each token, and of the expert for every token if there is one.

    A tensor-parallel process has some columns of every expert, or under expert parallelism of some experts, and the
    whole router. All processes have all tokens, so none is sent anywhere; the sum on leaving the block is that of the
    experts, too.
    """

    def __init__(
        self,
        experts: Experts,
        weights: Mapping[str, Weight],
        shapes: Mapping[str, tuple[int, ...]],
        *,
        number: int,
        dtype: str,
        four_bit: bool,
    ) -> None:
        """``number`` is that of the layer.

        ``weights`` are those of the block by role, ``shapes`` those of this process's tensors by name.
        """
        self._experts, self._number = experts, number
        self._form = {"dtype": dtype, "four_bit": four_bit}
        router = weights["router"]
        block = router.name.rpartition(".")[0]
        down = weights["expert_down"]
        self._held = [n for n in range(experts.count) if f"{down.numbered(n).name}.weight" in shapes]
        numbered = NumberedLayers({n: self._network(weights, shapes, _EXPERT, n) for n in self._held})
        layers: dict[str, tuple[str, nn.Layer]] = {
            "router": (_last(router), build_layer(router, shapes, **{**self._form, "four_bit": False})),
            "experts": (weights["expert_gate"].name.removeprefix(f"{block}.").partition(".")[0], numbered),
        }
        if experts.shared_inner:
            switch, shared = weights["shared_switch"], weights["shared_gate"].name.rpartition(".")[0]
            layers["shared"] = (shared.rpartition(".")[2], self._network(weights, shapes, _SHARED))
            layers["switch"] = (_last(switch), build_layer(switch, shapes, **{**self._form, "four_bit": False}))
        super().__init__(layers)

    def _network(
        self, weights: Mapping[str, Weight], shapes: Mapping[str, tuple[int, ...]], kind: str, number: int = 0
    ) -> FeedForward:
        layers = {}
        for role in ("gate", "up", "down"):
            weight = weights[f"{kind}{role}"].numbered(number)
            layers[role] = (_last(weight), build_layer(weight, shapes, **self._form))
        return FeedForward(layers)

    def forward(
        self,
        x: paddle.Tensor,
        region: TensorRegion,
        use: AdapterUse,
        balance: ExpertBalance | None = None,
        routes: RecordedRoutes | None = None,
    ) -> paddle.Tensor:
        """Return [rows, H] for x [rows, H]; with ``routes`` of the M tokens these are replayed."""
        probabilities = routing_probabilities(self["router"](x))
        if balance is not None:
            probabilities = balance.slope(probabilities, region)
        probabilities = region.enter(probabilities)
        switch = region.enter(F.sigmoid(self["switch"](x))) if self._experts.shared_inner else None
        x = region.enter(x)
        chosen = choose_experts(probabilities, self._experts.top_k)
        chosen = chosen if routes is None else routes.choose(self._number, chosen)
        weights = expert_weights(probabilities, chosen, normalises=self._experts.normalises)
        numbers = chosen.numpy()
        if balance is not None:
            balance.count(self._number, probabilities, numbers)
        dispatch = Dispatch.build(numbers, range(self._held[0], self._held[-1] + 1))
        parts = dispatch.send(x)
        given = zip(self._held, parts, strict=True)
        outputs = [self["experts"][n].partial(part, use) for n, part in given if self._runs(part)]
        total = dispatch.collect(outputs or parts[:1], weights)
        if switch is not None:
            total = total + switch * self["shared"].partial(x, use)
        return region.leave(total)

    def _runs(self, part: paddle.Tensor) -> bool:
        """Return whether an expert runs on its tokens ``part`` [n, H].

        One without tokens gets a gradient of zeros, since processes with other tokens sum theirs with it. Frozen ones
        need none, and Paddle cannot make only the other gradient of an empty product.
        """
        weight = self["experts"][self._held[0]]["down"].weight
        trains = paddle.is_grad_enabled() and weight is not None and not weight.stop_gradient
        return part.shape[0] > 0 or trains


def _last(weight: Weight) -> str:
    assert EACH not in weight.name, weight.name
    return weight.name.rpartition(".")[2]
