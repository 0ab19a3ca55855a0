"""Sort a decoder's tensors by the roles of its family's table; only a tied head is copied."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import paddle

from alignment.architecture.cuts import layer_shapes, layer_weights
from alignment.architecture.families import (
    EMBEDDING,
    FINAL_NORM,
    HEAD_BIAS,
    LM_HEAD,
    POSITIONS,
    PROJECT_IN,
    PROJECT_OUT,
)
from alignment.architecture.family import LAYERS
from alignment.generation.engine_placement import WHOLE_MODEL, EnginePlacement
from alignment.ops.rms_norm import NORM_OFFSETS, layer_norm_inference, offset_weight, rms_norm_inference


class Affine(NamedTuple):
    """A matrix [in, out] and optionally a bias [out]."""

    weight: paddle.Tensor
    bias: paddle.Tensor | None

    def __call__(self, x: paddle.Tensor) -> paddle.Tensor:
        """Return ``x @ weight + bias`` for x [..., in]."""
        y = paddle.matmul(x, self.weight)
        return y if self.bias is None else y.add_(self.bias)


class ExpertWeights(NamedTuple):
    """One expert by role."""

    gate: Affine
    up: Affine
    down: Affine


class RoutedWeights(NamedTuple):
    """A feed-forward block that chooses among experts, by role."""

    router: Affine
    experts: tuple[ExpertWeights, ...]
    """Those of this process, in order."""
    first: int
    """The number of the first of them."""
    shared: ExpertWeights | None
    """The expert that every token is given to, by its gate ``switch``; None: there is none."""
    switch: Affine | None


class NormFactors(NamedTuple):
    """What a norm multiplies by, offset included, and what it adds (None: nothing)."""

    weight: paddle.Tensor
    bias: paddle.Tensor | None

    def __call__(self, x: paddle.Tensor, eps: float) -> paddle.Tensor:
        """Return x [M, width] normalised: with a bias by mean and variance, else by the root mean square."""
        if self.bias is None:
            return rms_norm_inference(x, self.weight, eps)
        return layer_norm_inference(x, self.weight, self.bias, eps)


class LayerWeights(NamedTuple):
    """One layer by role; None for what its family does not have."""

    input_norm: NormFactors | None
    queries: Affine
    keys: Affine
    values: Affine
    output: Affine
    query_norm: NormFactors | None
    key_norm: NormFactors | None
    feed_norm: NormFactors | None
    gate: Affine | None
    """None, like ``up`` and ``down``, in a layer with experts."""
    up: Affine | None
    down: Affine | None
    attended_norm: NormFactors | None = None
    fed_norm: NormFactors | None = None
    routed: RoutedWeights | None = None
    """The experts; None in a layer without."""


class DecoderWeights(NamedTuple):
    """The decoder, or one stage of it; ``head`` is [H, V]. Tensors may be a tensor-parallel process's parts."""

    embedding: paddle.Tensor | None
    """None except on the first stage."""
    positions: paddle.Tensor | None
    """Learned positions; None: there are none, or this is not the first stage."""
    layers: tuple[LayerWeights, ...]
    norm: NormFactors | None
    """None also where the layers normalise their sums."""
    head: paddle.Tensor | None
    """None except on the last stage."""
    head_bias: paddle.Tensor | None = None
    project_in: paddle.Tensor | None = None
    """Makes hidden states of narrower embeddings; None: they are as wide, or this is not the first stage."""
    project_out: paddle.Tensor | None = None
    """Likewise of hidden states what the head reads, on the last stage."""

    @property
    def any_matrix(self) -> paddle.Tensor:
        """A matrix of the layers, for what all have in common."""
        return self.layers[0].output.weight


def sort_weights(
    weights: Iterable[tuple[str, Any]], config: Any, placement: EnginePlacement = WHOLE_MODEL
) -> DecoderWeights:
    """Return ``weights`` (Hugging Face name, tensor) by role; KeyError for a missing name.

    ``placement`` says which layers of ``config`` (a DecoderConfig) they contain; a last stage with a tied head needs
    the embedding too.
    """
    by_name = {name: tensor.detach() for name, tensor in weights}
    numbers = [number for chunk in placement.chunks(config.num_hidden_layers) for number in chunk]
    is_first, is_last = placement.pipeline.is_first, placement.pipeline.is_last
    return DecoderWeights(
        embedding=by_name[EMBEDDING] if is_first else None,
        layers=tuple(_layer(by_name, number, config) for number in numbers),
        positions=by_name[POSITIONS] if is_first and config.learned_positions else None,
        norm=_final_norm(by_name, config) if is_last and not config.norms_sums else None,
        head=_head(by_name) if is_last else None,
        head_bias=by_name[HEAD_BIAS] if is_last and config.head_bias else None,
        project_in=by_name[PROJECT_IN] if is_first and config.embedding_size else None,
        project_out=by_name[PROJECT_OUT] if is_last and config.embedding_size else None,
    )


def _final_norm(by_name: Mapping[str, paddle.Tensor], config: Any) -> NormFactors:
    bias = by_name[FINAL_NORM.replace("weight", "bias")] if config.norm_bias else None
    return NormFactors(offset_weight(by_name[FINAL_NORM], NORM_OFFSETS[config.family.norm]), bias)


def _head(by_name: Mapping[str, paddle.Tensor]) -> paddle.Tensor:
    head = by_name.get(LM_HEAD)
    # Using the head transposed is three times slower for a few rows, so a tied one is worth a copy.
    return by_name[EMBEDDING].t().contiguous() if head is None else head


_PLAIN = tuple(name for name in LayerWeights._fields if name != "routed")


def _layer(by_name: Mapping[str, paddle.Tensor], number: int, config: Any) -> LayerWeights:
    prefix, has_experts = f"{LAYERS}{number}.", config.has_experts(number)
    weights = {weight.role: weight for weight in layer_weights(config, has_experts=has_experts)}
    shapes, offset = layer_shapes(config, has_experts=has_experts), NORM_OFFSETS[config.family.norm]

    def pick(role: str, expert: int = 0) -> NormFactors | Affine | None:
        if role not in weights:
            return None
        weight = weights[role].numbered(expert)
        names = [f"{weight.name}.{ending}" for ending in ("weight", "bias")]
        found = [by_name[f"{prefix}{name}"] if name in shapes else None for name in names]
        if weight.kind == "matrix":
            return Affine(*found)
        return None if found[0] is None else NormFactors(offset_weight(found[0], offset), found[1])

    def network(kind: str, number: int = 0) -> ExpertWeights:
        return ExpertWeights(*(pick(f"{kind}_{role}", number) for role in ("gate", "up", "down")))

    routed = None
    if has_experts:
        down = weights["expert_down"]
        held = [n for n in range(config.experts.count) if f"{prefix}{down.numbered(n).name}.weight" in by_name]
        experts = tuple(network("expert", n) for n in held)
        shared = network("shared") if config.experts.shared_inner else None
        routed = RoutedWeights(pick("router"), experts, held[0], shared, pick("shared_switch"))
    return LayerWeights(**{role: pick(role) for role in _PLAIN}, routed=routed)
