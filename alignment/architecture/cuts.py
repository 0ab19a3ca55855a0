"""Compute which part of the model each process holds, from the configuration and the layout (pure functions).

Shapes are those in memory: Linear weights [in, out] (``models.folders.naming``). Tensor parallelism splits

- by columns, so that each process computes different outputs: q, k, v (whole heads), gate, up, vocabulary head;
- by rows, so that outputs are partial sums: o, down, and the embedding (rows of the vocabulary);
- nothing else: all other tensors are replicated.

The tables of ``families`` say how each tensor is split.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from alignment.architecture.decoder_config import DecoderConfig
from alignment.architecture.families import EMBEDDING, GATING, OUTSIDE, POSITIONS, PROJECT_IN, SCORE
from alignment.architecture.family import EACH, LAYERS, Dimension, Weight
from alignment.architecture.layout import Layout
from alignment.architecture.parts import Part, even_cut

KINDS = ("causal", "score")
_EXPERT = re.compile(r"\.experts\.([0-9]+)\.")
"""The number of an expert within the name of one of its tensors."""


class _Tensor(NamedTuple):
    """A tensor's entry in the tables."""

    weight: Weight
    is_bias: bool

    @property
    def axis(self) -> int | None:
        """The axis along which it is split, or None."""
        return self.weight.axis(is_bias=self.is_bias)

    @property
    def dimension(self) -> Dimension | None:
        """The dimension that is split; None: every tensor process holds the whole tensor."""
        return None if self.axis is None else self.weight.cut_dimension


def whole_shapes(
    config: DecoderConfig,
    kind: str,
    *,
    score_bias: bool = False,
    num_labels: int = 1,
    gating_sizes: Sequence[int] = (),
) -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter of the whole model, in model order; ``kind`` is one of ``KINDS``.

    ``num_labels`` is the number of scores of a score model, ``gating_sizes`` are the widths of the layers of its gating
    network (empty: it has none).
    """
    assert kind in KINDS, kind
    sizes = config.dimensions
    before, project_in, positions, final, project_out, score, head = OUTSIDE
    shapes = _shapes_of(before, sizes)
    for weight in (project_in, positions):
        shapes |= _shapes_of(weight, sizes) if getattr(config, weight.needs) else {}
    kinds = {has_experts: layer_shapes(config, has_experts=has_experts) for has_experts in (False, True)}
    for index in range(config.num_hidden_layers):
        layer = kinds[config.has_experts(index)]
        shapes.update({f"{LAYERS}{index}.{name}": shape for name, shape in layer.items()})
    shapes |= {} if config.norms_sums else _shapes_of(final, sizes, has_bias=config.norm_bias)
    shapes |= _shapes_of(project_out, sizes) if config.embedding_size else {}
    if kind == "score":
        shapes |= _shapes_of(score, {**sizes, "one": num_labels}, has_bias=score_bias)
        for number, pair in enumerate(zip(gating_sizes, gating_sizes[1:], strict=False)):
            shapes |= {f"{GATING}{number}.weight": pair, f"{GATING}{number}.bias": pair[1:]}
    elif not config.tie_word_embeddings:
        shapes |= _shapes_of(head, sizes, has_bias=config.head_bias)
    return shapes


def layer_shapes(config: DecoderConfig, *, has_experts: bool = False) -> dict[str, tuple[int, ...]]:
    """Return the whole shape of every tensor of a layer, with or without experts, by its name within the layer."""
    shapes: dict[str, tuple[int, ...]] = {}
    for weight in layer_weights(config, has_experts=has_experts):
        has_bias = bool(weight.bias) and getattr(config, weight.bias)
        for number in range(config.experts.count if weight.is_expert else 1):
            shapes |= _shapes_of(weight.numbered(number), config.dimensions, has_bias=has_bias)
    return shapes


def layer_weights(config: DecoderConfig, *, has_experts: bool) -> list[Weight]:
    """Return the weights in the family's table of a layer with or without experts, in table order."""
    absent = "dense" if has_experts else "experts"
    return [
        weight
        for weight in config.family.layer
        if not (weight.role == "feed_norm" and config.shared_norm)
        and weight.layers != absent
        and (not weight.needs or getattr(config, weight.needs))
        and all(config.dimensions[dimension] for dimension in weight.dimensions)
    ]


def norm_names(config: DecoderConfig) -> frozenset[str]:
    """Return the names of the factors of all norms."""
    layer = [weight.name for weight in config.family.layer if weight.kind == "norm"]
    inner = {f"{LAYERS}{number}.{name}.weight" for number in range(config.num_hidden_layers) for name in layer}
    return frozenset(inner | {f"{weight.name}.weight" for weight in OUTSIDE if weight.kind == "norm"})


def _shapes_of(weight: Weight, sizes: Mapping[Dimension, int], *, has_bias: bool = False) -> dict[str, tuple[int, ...]]:
    shape = tuple(sizes[dimension] for dimension in weight.dimensions)
    return {f"{weight.name}.weight": shape} | ({f"{weight.name}.bias": shape[-1:]} if has_bias else {})


def layer_number(name: str) -> int:
    """Return 3 for ``model.layers.3.mlp.up_proj.weight``."""
    return int(name.removeprefix(LAYERS).partition(".")[0])


def layer_ranges(num_layers: int, *, stage: int, num_stages: int, chunks_per_stage: int = 1) -> list[range]:
    """Return the layers of each chunk of ``stage``; chunk c is piece c * num_stages + stage."""
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
    """Return those of ``names`` (of a whole model) that ``stage`` holds, in the same order.

    The embedding is on the first stage, final norm and head on the last. The last stage of a language model (``names``
    without a score head) also holds a tied embedding, as its head.
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
        if name in (PROJECT_IN, POSITIONS):
            return is_first
        return is_first or (is_last and is_head) if name == EMBEDDING else is_last

    return [name for name in names if holds(name)]


def local_part(
    name: str,
    shape: Sequence[int],
    config: DecoderConfig,
    *,
    tensor_degree: int,
    tensor_index: int,
    expert_degree: int = 1,
) -> Part | None:
    """Return the rectangle of the whole tensor ``name`` of ``shape`` that process ``tensor_index`` holds.

    None for an expert that is another process's.
    """
    tensor = _find(name, config)
    whole, axis, dimension = Part.whole(name, shape), tensor.axis, tensor.dimension
    if axis is None:
        return whole
    if dimension == "keys" and config.num_key_value_heads < tensor_degree:
        head = tensor_index * config.num_key_value_heads // tensor_degree
        return whole.along(axis, head * config.head_dim, (head + 1) * config.head_dim)
    if tensor.weight.is_expert:
        share = expert_share(config, tensor_degree, tensor_index, expert_degree)
        if int(_EXPERT.search(name)[1]) not in share.experts:
            return None
        tensor_degree, tensor_index = share.degree, share.index
    unit = config.head_dim if dimension in ("queries", "keys") else 1
    start, stop = even_cut(shape[axis] // unit, tensor_degree, tensor_index)
    return whole.along(axis, start * unit, stop * unit)


class ExpertShare(NamedTuple):
    """What one tensor-parallel process holds of the experts of a layer."""

    experts: range
    degree: int
    """The number of processes that divide each of these."""
    index: int
    """The process's place among them."""


def expert_share(config: DecoderConfig, tensor_degree: int, tensor_index: int, expert_degree: int) -> ExpertShare:
    """Return the share of process ``tensor_index``: ``expert_degree`` groups of neighbours hold different experts."""
    degree = tensor_degree // expert_degree
    group, index = divmod(tensor_index, degree)
    return ExpertShare(range(*even_cut(config.experts.count, expert_degree, group)), degree, index)


def _find(name: str, config: DecoderConfig) -> _Tensor:
    """Return the entry of the tensor ``name`` in the tables."""
    stem, _, ending = name.rpartition(".")
    weights = OUTSIDE
    if name.startswith(GATING):  # held whole wherever the score head is
        stem = SCORE.rpartition(".")[0]
    if name.startswith(LAYERS):
        within = stem.removeprefix(LAYERS).partition(".")[2]
        stem, weights = _EXPERT.sub(rf".experts.{EACH}.", within), config.family.layer
    return _Tensor(next(weight for weight in weights if weight.name == stem), ending == "bias")


def local_layer_shapes(config: DecoderConfig, *, has_experts: bool = False, **place: int) -> dict[str, tuple[int, ...]]:
    """Like ``layer_shapes``, for the parts that a process holds; ``place`` as ``local_part`` takes it."""
    shapes = layer_shapes(config, has_experts=has_experts).items()
    parts = {name: local_part(f"{LAYERS}0.{name}", shape, config, **place) for name, shape in shapes}
    return {name: part.extent for name, part in parts.items() if part is not None}


def parts_of_rank(config: DecoderConfig, kind: str, layout: Layout, rank: int, **head: Any) -> list[Part]:
    """Return the parts that world rank ``rank`` of ``layout`` holds, before sharding; see ``parallel.initialise``.

    ``head``: what is above a score model's decoder, as ``whole_shapes`` takes it.
    """
    stage = rank // (layout.tensor * layout.sharding) % layout.pipeline
    kept = ("tensor", "pipeline", "virtual_stages", "expert")
    inner = Layout(**{name: getattr(layout, name) for name in kept})
    return list(_parts_of_stage(config, kind, inner, stage, rank % layout.tensor, **head))


@lru_cache(maxsize=256)
def _parts_of_stage(
    config: DecoderConfig, kind: str, inner: Layout, stage: int, index: int, **head: Any
) -> tuple[Part, ...]:
    """Return what the tensor process ``index`` of ``stage`` holds; a plan asks for the same parts again and again."""
    shapes = whole_shapes(config, kind, **head)
    names = held_names(
        list(shapes), config, stage=stage, num_stages=inner.pipeline, chunks_per_stage=inner.virtual_stages
    )
    place = {"tensor_degree": inner.tensor, "tensor_index": index, "expert_degree": inner.expert}
    parts = (local_part(name, shapes[name], config, **place) for name in names)
    return tuple(part for part in parts if part is not None)


def tensor_copies(name: str, config: DecoderConfig, *, tensor_degree: int) -> int:
    """Return how many (consecutive) tensor processes hold the same part of ``name``."""
    dimension = _find(name, config).dimension
    if dimension == "keys":
        return max(1, tensor_degree // config.num_key_value_heads)
    return tensor_degree if dimension is None else 1


def gradient_is_partial(
    name: str, config: DecoderConfig, *, tensor_degree: int, sequence_parallel: bool = False
) -> bool:
    """Tell whether each copy of ``name`` gets only a share of its gradient, to be summed over the copies.

    True for tensors used on different heads by several processes (head norms, replicated key heads), and under sequence
    parallelism for those used on different tokens (norms, biases of o and down). ``tensor_parallel.sum_over_copies``
    computes the sum.
    """
    if tensor_copies(name, config, tensor_degree=tensor_degree) == 1:
        return False
    tensor = _find(name, config)
    by_heads = tensor.dimension == "keys" or tensor.weight.dimensions == ("head",)
    return by_heads or (sequence_parallel and tensor.weight.role != "score")


def check_degrees(config: DecoderConfig, layout: Layout) -> list[str]:
    """Return a message with the allowed values for each degree of ``layout`` that this model cannot be split by."""
    problems = []
    refused = _tensor_problem(config, layout.tensor, layout.expert)
    if refused:
        limit = config.num_attention_heads
        allowed = [str(degree) for degree in range(1, limit + 1) if not _tensor_problem(config, degree)]
        problems.append(f"tensor_parallel_degree={layout.tensor} {refused} (allowed: {', '.join(allowed)})")
    if config.experts is not None and layout.expert > config.experts.count:
        problems.append(
            f"expert_parallel_degree={layout.expert} is more than the model's {config.experts.count} experts "
            f"(allowed: 1 to {config.experts.count})"
        )
    chunks, layers = layout.pipeline * layout.virtual_stages, config.num_hidden_layers
    if layout.pipeline > layers:
        problems.append(
            f"pipeline_parallel_degree={layout.pipeline} is more than the model's {layers} layers "
            f"(allowed: 1 to {layers})"
        )
    elif chunks > layers:
        problems.append(
            f"virtual_pp_degree={layout.virtual_stages} with pipeline_parallel_degree={layout.pipeline} needs "
            f"{chunks} layers, but the model has {layers} (allowed: virtual_pp_degree 1 to {layers // layout.pipeline})"
        )
    return problems


def team_problem(config: DecoderConfig, degree: int, *, processes: int) -> str:
    """Return why each ``degree`` neighbouring processes cannot hold the model together, with those that work;
    empty if they can.
    """

    def works(tensor: int) -> bool:
        return processes % tensor == 0 and not check_degrees(config, Layout(tensor=tensor))

    if works(degree):
        return ""
    allowed = ", ".join(str(tensor) for tensor in range(1, processes + 1) if works(tensor))
    return (
        f"does not divide the {processes} processes and the model's {config.num_attention_heads} attention heads "
        f"({config.num_key_value_heads} of keys and values); allowed: {allowed}"
    )


def _tensor_problem(config: DecoderConfig, degree: int, expert_degree: int = 1) -> str:
    """Return why ``degree`` processes cannot share a layer; empty if they can."""
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    if heads % degree:
        return f"does not divide the model's {heads} attention heads"
    if kv_heads % degree and degree % kv_heads:
        return f"neither divides the model's {kv_heads} key and value heads nor is a multiple of them"
    sizes: Mapping[str, int] = {"intermediate_size": config.intermediate_size, "vocab_size": config.vocab_size}
    if config.experts is not None:
        sizes = {**sizes, config.family.experts.inner: config.experts.inner * expert_degree}
    return next((f"is more than the model's {name} {size}" for name, size in sizes.items() if size < degree), "")


class LayerSizes(NamedTuple):
    """The share of a layer that one tensor-parallel process computes."""

    heads: int
    """Query heads."""
    kv_heads: int
    """Key and value heads; at least one, even if there are fewer than processes."""
    inner: int
    """Columns of the feed-forward block."""


def layer_sizes(config: DecoderConfig, *, tensor_degree: int, tensor_index: int) -> LayerSizes:
    """Return the sizes for process ``tensor_index``; ``local_part`` says which heads and columns they are."""
    problem = _tensor_problem(config, tensor_degree, tensor_degree)
    assert not problem, f"{tensor_degree} {problem}: check_degrees refuses it"
    start, stop = even_cut(config.intermediate_size, tensor_degree, tensor_index)
    heads, kv_heads = config.num_attention_heads // tensor_degree, config.num_key_value_heads // tensor_degree
    return LayerSizes(heads, max(1, kv_heads), stop - start)
