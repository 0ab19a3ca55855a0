"""One layer of the decoder: attention and feed-forward, with what all layers of a forward pass share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import paddle
from paddle import nn
from paddle.distributed.fleet.utils import recompute

from alignment.architecture.cuts import layer_weights
from alignment.architecture.decoder_config import DecoderConfig
from alignment.models.decoder.adapter_use import ADAPTED, AdapterUse
from alignment.models.decoder.balancing import ExpertBalance
from alignment.models.decoder.feed_forward import ExpertFeedForward, FeedForward
from alignment.models.decoder.layers import AllHeadsNorm, RmsNorm, RoleLayers, build_layer
from alignment.models.decoder.replay import RecordedRoutes
from alignment.models.decoder.wanted_tokens import WantedTokens
from alignment.ops.precision import scale_by
from alignment.ops.rotary_attention import RotaryAttention
from alignment.parallel.comms.group import Group
from alignment.parallel.tensor.regions import TensorRegion


@dataclass(frozen=True, slots=True)
class SequencePlan:
    """What all layers of one forward pass share."""

    attention: RotaryAttention
    region: TensorRegion
    recomputed: str = ""
    """What the backward pass recomputes: ``full``, ``full_attn``, ``core_attn``, or nothing (empty)."""
    adapter: AdapterUse = ADAPTED
    balance: ExpertBalance | None = None
    routes: RecordedRoutes | None = None
    """The experts that tokens are given to; None: those that the routers choose."""
    local_attention: RotaryAttention | None = None
    """Of layers with a window where others have none, or another rotary embedding; None: ``attention``."""

    def attention_of(self, *, is_local: bool) -> RotaryAttention:
        """Return what prepares the attention of a layer with the window (``is_local``) or without."""
        return self.local_attention if is_local and self.local_attention is not None else self.attention


class Attention(RoleLayers):
    """Causal self-attention over this process's heads."""

    def __init__(
        self, layers: Mapping[str, tuple[str, nn.Layer]], *, is_local: bool = False, query_scale: float = 1.0
    ) -> None:
        """``is_local``: the layer has the window. Queries are multiplied by ``query_scale``."""
        super().__init__(layers)
        self._is_local, self._query_scale = is_local, query_scale

    def forward(self, x: paddle.Tensor, plan: SequencePlan, wanted: WantedTokens | None = None) -> paddle.Tensor:
        """Return [rows, H] for x [rows, H], or [T, H] of the ``wanted`` tokens."""
        x = plan.region.enter(x)
        asking, use, ranges = x, plan.adapter, None
        if wanted is not None:
            asking, use, ranges = paddle.gather(x, wanted.queries), plan.adapter.at(wanted.queries), wanted.ranges
        group = plan.region.group
        q = _norm_heads(self.get("query_norm"), self["queries"](asking, use), group)
        q = scale_by(q, self._query_scale)
        k = _norm_heads(self.get("key_norm"), self["keys"](x, plan.adapter), group)
        keep_weights = plan.recomputed != "core_attn"
        attention = plan.attention_of(is_local=self._is_local)
        mixed = attention.attend(q, k, self["values"](x, plan.adapter), queries=ranges, keep_weights=keep_weights)
        if wanted is not None:
            mixed, use = wanted.of_queries(mixed), plan.adapter.at(wanted.rows)
        return self["output"](mixed, plan.region, use)


def _norm_heads(norm: RmsNorm | None, x: paddle.Tensor, group: Group) -> paddle.Tensor:
    """Normalise each head of x [M, heads * D], or all of ``group`` together; without a norm return x."""
    if isinstance(norm, AllHeadsNorm):
        return norm(x, group)
    return x if norm is None else norm(x.reshape([-1, norm.weight.shape[0]])).reshape(x.shape)


class DecoderLayer(RoleLayers):
    """Attention and feed-forward with their norms and residual connections."""

    def __init__(
        self,
        config: DecoderConfig,
        shapes: Mapping[str, tuple[int, ...]],
        *,
        number: int = 0,
        dtype: str,
        four_bit: bool = False,
    ) -> None:
        """``number`` is that of the layer in the model.

        ``shapes`` holds the shapes of this process's tensors by their name within the layer.
        """
        blocks: dict[str, dict[str, tuple[str, nn.Layer]]] = {}
        has_experts = config.has_experts(number)
        weights = {weight.role: weight for weight in layer_weights(config, has_experts=has_experts)}
        for weight in weights.values():
            if weight.layers != "experts":
                block, _, name = weight.name.rpartition(".")
                layer = build_layer(weight, shapes, config, dtype=dtype, four_bit=four_bit)
                blocks.setdefault(block, {})[weight.role] = (name, layer)
        norms = blocks.pop("")
        names = [weights[role].name.rpartition(".")[0] for role in ("queries", "router" if has_experts else "down")]
        if has_experts:
            form = {"number": number, "dtype": dtype, "four_bit": four_bit}
            feed_forward = ExpertFeedForward(config.experts, weights, shapes, **form)
        else:
            feed_forward = FeedForward(blocks[names[1]], activation=config.activation)
        form = {"is_local": config.is_local(number), "query_scale": config.query_scale}
        attention = Attention(blocks[names[0]], **form)
        parts = {"attention": (names[0], attention), "feed_forward": (names[1], feed_forward)}
        super().__init__(parts | norms)
        self._is_parallel, self._shares_norm = config.parallel_block, config.shared_norm
        self._norms_sums = config.norms_sums

    def forward(self, hidden: paddle.Tensor, plan: SequencePlan, wanted: WantedTokens | None = None) -> paddle.Tensor:
        """Return [rows, H] for hidden [rows, H], or [T, H] of the ``wanted`` tokens."""
        if plan.recomputed == "full_attn":
            attended = recompute(self._attend, hidden, plan, wanted, preserve_rng_state=False)
        else:
            attended = self._attend(hidden, plan, wanted)
        use, routes = plan.adapter, plan.routes
        if wanted is not None:
            hidden, use = paddle.gather(hidden, wanted.rows), use.at(wanted.rows)
            routes = routes and routes.at(wanted.rows)
        if self._is_parallel:
            return hidden + attended + self._feed(hidden, plan, use, routes)
        hidden = self._sum("input_norm", hidden + attended)
        return self._sum("feed_norm", hidden + self._feed(hidden, plan, use, routes))

    def _sum(self, role: str, hidden: paddle.Tensor) -> paddle.Tensor:
        """Return what the layer passes on of a sum: itself, or normalised by the norm of this role."""
        return self[role](hidden) if self._norms_sums else hidden

    def _before(self, role: str) -> nn.Layer | None:
        """Return the norm of what attention or feed-forward reads."""
        return None if self._norms_sums else self.get(role)

    def _attend(self, hidden: paddle.Tensor, plan: SequencePlan, wanted: WantedTokens | None) -> paddle.Tensor:
        attended = self["attention"](_norm(self._before("input_norm"), hidden), plan, wanted)
        return _norm(self.get("attended_norm"), attended)

    def _feed(
        self, hidden: paddle.Tensor, plan: SequencePlan, use: AdapterUse, routes: RecordedRoutes | None
    ) -> paddle.Tensor:
        norm = self["input_norm"] if self._shares_norm else self._before("feed_norm")
        fed = self["feed_forward"](_norm(norm, hidden), plan.region, use, plan.balance, routes)
        return _norm(self.get("fed_norm"), fed)


def _norm(norm: nn.Layer | None, hidden: paddle.Tensor) -> paddle.Tensor:
    return hidden if norm is None else norm(hidden)
