"""Which part of the whole model each process holds: pure functions of the configuration and the layout.

Shapes are those inside the program: Linear weights [in, out] (``models.folders.naming``). Cuts (t tensor processes):

- by columns, so that every process computes other outputs: q, k, v (whole heads), gate, up, and the vocabulary head;
- by rows, so that outputs are partial sums: o, down, and the embedding (rows of the vocabulary);
- everything else is held by all of them.

Which tensor is cut how stands in the tables of ``families``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from alignment.architecture.decoder_config import DecoderConfig
from alignment.architecture.families import EMBEDDING, OUTSIDE, SCORE
from alignment.architecture.family import LAYERS, Dimension, Weight
from alignment.architecture.layout import Layout
from alignment.architecture.parts import Part, even_cut

KINDS = ("causal", "score")


class _Tensor(NamedTuple):
    """What the tables say of one tensor."""

    weight: Weight
    is_bias: bool

    @property
    def axis(self) -> int | None:
        """The axis along which it is cut."""
        return self.weight.axis(is_bias=self.is_bias)

    @property
    def dimension(self) -> Dimension | None:
        """What is divided along that axis; None: nothing, every tensor process holds the tensor whole."""
        return None if self.axis is None else self.weight.cut_dimension


def whole_shapes(config: DecoderConfig, kind: str, *, score_bias: bool = False) -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter of the whole model, in the order of the model; ``kind`` of ``KINDS``."""
    assert kind in KINDS, kind
    sizes = config.dimensions
    before, final, score, head = OUTSIDE
    shapes = _shapes_of(before, sizes)
    layer = layer_shapes(config)
    for index in range(config.num_hidden_layers):
        shapes.update({f"{LAYERS}{index}.{name}": shape for name, shape in layer.items()})
    shapes |= _shapes_of(final, sizes)
    if kind == "score":
        shapes |= _shapes_of(score, sizes, has_bias=score_bias)
    elif not config.tie_word_embeddings:
        shapes |= _shapes_of(head, sizes)
    return shapes


def layer_shapes(config: DecoderConfig) -> dict[str, tuple[int, ...]]:
    """Return the whole shape of every tensor of a layer, by the name in the layer and in the order of the table."""
    shapes: dict[str, tuple[int, ...]] = {}
    for weight in config.family.layer:
        if not weight.needs or getattr(config, weight.needs):
            has_bias = bool(weight.bias) and getattr(config, weight.bias)
            shapes |= _shapes_of(weight, config.dimensions, has_bias=has_bias)
    return shapes


def _shapes_of(weight: Weight, sizes: Mapping[Dimension, int], *, has_bias: bool = False) -> dict[str, tuple[int, ...]]:
    shape = tuple(sizes[dimension] for dimension in weight.dimensions)
    return {f"{weight.name}.weight": shape} | ({f"{weight.name}.bias": shape[-1:]} if has_bias else {})


def layer_number(name: str) -> int:
    """Return 3 for ``model.layers.3.mlp.up_proj.weight``."""
    return int(name.removeprefix(LAYERS).partition(".")[0])


def layer_ranges(num_layers: int, *, stage: int, num_stages: int, chunks_per_stage: int = 1) -> list[range]:
    """Return the layers of each chunk of ``stage``; chunk c is piece c * num_stages + stage of all layers."""
    pieces = num_stages * chunks_per_stage
    return [range(*even_cut(num_layers, pieces, c * num_stages + stage)) for c in range(chunks_per_stage)]


def held_names(
    names: Sequence[str],
    config: DecoderConfig,
    *,
    stage: int,
    num_stages: int,
    chunks_per_stage: int = 1,
) -> list[str]:
    """Return those of ``names`` (a whole model's) that ``stage`` holds, in their order.

    The embedding stands on the first stage, final norm and head on the last. A tied embedding serves a language model
    (``names`` without a score head) as head too, so the last stage holds it as well.
    """
    ranges = layer_ranges(
        config.num_hidden_layers, stage=stage, num_stages=num_stages, chunks_per_stage=chunks_per_stage
    )
    layers = {index for chunk in ranges for index in chunk}
    is_first, is_last = stage == 0, stage == num_stages - 1
    is_head = config.tie_word_embeddings and SCORE not in names

    def holds(name: str) -> bool:
        if name.startswith(LAYERS):
            return layer_number(name) in layers
        return is_first or (is_last and is_head) if name == EMBEDDING else is_last

    return [name for name in names if holds(name)]


def local_part(
    name: str, shape: Sequence[int], config: DecoderConfig, *, tensor_degree: int, tensor_index: int
) -> Part:
    """Return the rectangle of the whole tensor ``name`` of ``shape`` that process ``tensor_index`` holds."""
    tensor = _find(name, config)
    whole, axis, dimension = Part.whole(name, shape), tensor.axis, tensor.dimension
    if axis is None:
        return whole
    if dimension == "keys" and config.num_key_value_heads < tensor_degree:
        head = tensor_index * config.num_key_value_heads // tensor_degree
        return whole.along(axis, head * config.head_dim, (head + 1) * config.head_dim)
    unit = config.head_dim if dimension in ("queries", "keys") else 1
    start, stop = even_cut(shape[axis] // unit, tensor_degree, tensor_index)
    return whole.along(axis, start * unit, stop * unit)


def _find(name: str, config: DecoderConfig) -> _Tensor:
    """Return what the tables say of the tensor ``name``."""
    stem, _, ending = name.rpartition(".")
    weights = OUTSIDE
    if name.startswith(LAYERS):
        stem, weights = stem.removeprefix(LAYERS).partition(".")[2], config.family.layer
    return _Tensor(next(weight for weight in weights if weight.name == stem), ending == "bias")


def local_layer_shapes(config: DecoderConfig, *, tensor_degree: int, tensor_index: int) -> dict[str, tuple[int, ...]]:
    """Return ``layer_shapes`` of what process ``tensor_index`` holds."""
    return {
        name: local_part(
            f"{LAYERS}0.{name}", shape, config, tensor_degree=tensor_degree, tensor_index=tensor_index
        ).extent
        for name, shape in layer_shapes(config).items()
    }


def parts_of_rank(
    config: DecoderConfig, kind: str, layout: Layout, rank: int, *, score_bias: bool = False
) -> list[Part]:
    """Return what the world rank ``rank`` of ``layout`` holds, before sharding; see ``parallel.initialise``."""
    stage = rank // (layout.tensor * layout.sharding) % layout.pipeline
    inner = Layout(tensor=layout.tensor, pipeline=layout.pipeline, virtual_stages=layout.virtual_stages)
    return list(_parts_of_stage(config, kind, score_bias, inner, stage, rank % layout.tensor))


@lru_cache(maxsize=256)
def _parts_of_stage(
    config: DecoderConfig, kind: str, score_bias: bool, inner: Layout, stage: int, index: int
) -> tuple[Part, ...]:
    """Return what the tensor process ``index`` of ``stage`` holds; a plan asks for the same parts again and again."""
    shapes = whole_shapes(config, kind, score_bias=score_bias)
    names = held_names(
        list(shapes), config, stage=stage, num_stages=inner.pipeline, chunks_per_stage=inner.virtual_stages
    )
    return tuple(
        local_part(name, shapes[name], config, tensor_degree=inner.tensor, tensor_index=index) for name in names
    )


def tensor_copies(name: str, config: DecoderConfig, *, tensor_degree: int) -> int:
    """Return how many of the tensor processes hold this very rectangle; those that do are neighbours."""
    dimension = _find(name, config).dimension
    if dimension == "keys":
        return max(1, tensor_degree // config.num_key_value_heads)
    return tensor_degree if dimension is None else 1


def gradient_is_partial(
    name: str, config: DecoderConfig, *, tensor_degree: int, sequence_parallel: bool = False
) -> bool:
    """Return whether the copies of ``name`` each hold a share of its gradient, to be summed over those copies.

    True for what several processes hold and use on different heads (head norms, key heads held by several processes),
    and under sequence parallelism for what they use on different tokens (norms, biases of o and down).
    ``tensor_parallel.sum_over_copies`` does the sum.
    """
    if tensor_copies(name, config, tensor_degree=tensor_degree) == 1:
        return False
    tensor = _find(name, config)
    by_heads = tensor.dimension == "keys" or tensor.weight.dimensions == ("head",)
    return by_heads or (sequence_parallel and tensor.weight.role != "score")


def check_degrees(config: DecoderConfig, layout: Layout) -> list[str]:
    """Return one message for each number of ``layout`` this model cannot be cut by, with those that work."""
    problems = []
    refused = _tensor_problem(config, layout.tensor)
    if refused:
        limit = config.num_attention_heads
        allowed = [str(degree) for degree in range(1, limit + 1) if not _tensor_problem(config, degree)]
        problems.append(f"tensor_parallel_degree={layout.tensor} {refused} (allowed: {', '.join(allowed)})")
    chunks, layers = layout.pipeline * layout.virtual_stages, config.num_hidden_layers
    if layout.pipeline > layers:
        problems.append(
            f"pipeline_parallel_degree={layout.pipeline} is more than the model's {layers} layers "
            f"(allowed: 1 to {layers})"
        )
    elif chunks > layers:
        problems.append(
            f"virtual_pp_degree={layout.virtual_stages} with pipeline_parallel_degree={layout.pipeline} needs "
            f"{chunks} layers, and the model has {layers} (allowed: virtual_pp_degree 1 to {layers // layout.pipeline})"
        )
    return problems


def _tensor_problem(config: DecoderConfig, degree: int) -> str:
    """Return why ``degree`` processes cannot share a layer, empty when they can."""
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    if heads % degree:
        return f"does not divide the model's {heads} attention heads"
    if kv_heads % degree and degree % kv_heads:
        return f"neither divides the model's {kv_heads} key and value heads nor is a multiple of them"
    sizes: Mapping[str, int] = {"intermediate_size": config.intermediate_size, "vocab_size": config.vocab_size}
    return next((f"is more than the model's {name} {size}" for name, size in sizes.items() if size < degree), "")


class LayerSizes(NamedTuple):
    """The share of every layer that one process of a tensor-parallel group computes."""

    heads: int
    """Query heads."""
    kv_heads: int
    """Key and value heads; where there are fewer than processes, each process holds one."""
    inner: int
    """Columns of the feed-forward block."""


def layer_sizes(config: DecoderConfig, *, tensor_degree: int, tensor_index: int) -> LayerSizes:
    """Return what process ``tensor_index`` computes; see ``local_part`` for which of them."""
    problem = _tensor_problem(config, tensor_degree)
    assert not problem, f"{tensor_degree} {problem}: check_degrees refuses it"
    start, stop = even_cut(config.intermediate_size, tensor_degree, tensor_index)
    heads, kv_heads = config.num_attention_heads // tensor_degree, config.num_key_value_heads // tensor_degree
    return LayerSizes(heads, max(1, kv_heads), stop - start)
