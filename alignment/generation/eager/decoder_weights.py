"""A decoder's tensors by role, taken from Hugging Face names; nothing is copied but a tied head."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import paddle

from alignment.generation.place import WHOLE_MODEL, EnginePlace


class Affine(NamedTuple):
    """A matrix [in, out] and, in some families, a bias [out]."""

    weight: paddle.Tensor
    bias: paddle.Tensor | None

    def __call__(self, x: paddle.Tensor) -> paddle.Tensor:
        """Return ``x @ weight + bias`` for x [..., in]."""
        y = paddle.matmul(x, self.weight)
        return y if self.bias is None else y.add_(self.bias)


class LayerWeights(NamedTuple):
    """One layer; the head norms are None in families without them."""

    input_norm: paddle.Tensor
    queries: Affine
    keys: Affine
    values: Affine
    output: Affine
    query_norm: paddle.Tensor | None
    key_norm: paddle.Tensor | None
    feed_norm: paddle.Tensor
    gate: Affine
    up: Affine
    down: Affine


class DecoderWeights(NamedTuple):
    """The decoder, or one stage of it; ``head`` is [H, V]. Tensors may be the cuts of a tensor-parallel process."""

    embedding: paddle.Tensor | None
    """None where no tokens enter."""
    layers: tuple[LayerWeights, ...]
    norm: paddle.Tensor | None
    head: paddle.Tensor | None
    """Like ``norm`` None where no logits leave."""


def sort_weights(
    weights: Iterable[tuple[str, Any]], num_layers: int, place: EnginePlace = WHOLE_MODEL
) -> DecoderWeights:
    """Return the tensors of ``weights`` (Hugging Face name, tensor) in their places; an absent name is a KeyError.

    ``place`` says which of the ``num_layers`` layers there are; a last stage with a tied head has the embedding too.
    """
    by_name = {name: tensor.detach() for name, tensor in weights}
    numbers = [number for chunk in place.chunks(num_layers) for number in chunk]
    is_first, is_last = place.pipeline.is_first, place.pipeline.is_last
    return DecoderWeights(
        embedding=by_name["model.embed_tokens.weight"] if is_first else None,
        layers=tuple(_layer(by_name, f"model.layers.{number}.") for number in numbers),
        norm=by_name["model.norm.weight"] if is_last else None,
        head=_head(by_name) if is_last else None,
    )


def _head(by_name: Mapping[str, paddle.Tensor]) -> paddle.Tensor:
    head = by_name.get("lm_head.weight")
    # A head used transposed is three times slower for a few rows, so a tied one is worth its copy.
    return by_name["model.embed_tokens.weight"].t().contiguous() if head is None else head


def _layer(by_name: Mapping[str, paddle.Tensor], prefix: str) -> LayerWeights:
    def affine(name: str) -> Affine:
        return Affine(by_name[f"{prefix}{name}.weight"], by_name.get(f"{prefix}{name}.bias"))

    return LayerWeights(
        input_norm=by_name[f"{prefix}input_layernorm.weight"],
        queries=affine("self_attn.q_proj"),
        keys=affine("self_attn.k_proj"),
        values=affine("self_attn.v_proj"),
        output=affine("self_attn.o_proj"),
        query_norm=by_name.get(f"{prefix}self_attn.q_norm.weight"),
        key_norm=by_name.get(f"{prefix}self_attn.k_norm.weight"),
        feed_norm=by_name[f"{prefix}post_attention_layernorm.weight"],
        gate=affine("mlp.gate_proj"),
        up=affine("mlp.up_proj"),
        down=affine("mlp.down_proj"),
    )
