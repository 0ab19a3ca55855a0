"""Which part of the whole model each process holds: pure functions of the configuration and the layout.

Shapes are those inside the program: Linear weights [in, out] (``models.folders.naming``). Cuts (t tensor processes):

- by columns, so that every process computes other outputs: q, k, v (whole heads), gate, up, and the vocabulary head;
- by rows, so that outputs are partial sums: o, down, and the embedding (rows of the vocabulary);
- everything else is held by all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from alignment.architecture.decoder_config import DecoderConfig
from alignment.architecture.layout import Layout
from alignment.architecture.parts import Part, even_cut

EMBEDDING = "model.embed_tokens.weight"
FINAL_NORM = "model.norm.weight"
KINDS = ("causal", "score")
_COLUMN_CUT = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "lm_head")
_ROW_CUT = ("o_proj", "down_proj", "embed_tokens")
_KEYS = ("k_proj", "v_proj")
_HEAD_NORMS = ("q_norm", "k_norm")


def whole_shapes(config: DecoderConfig, kind: str, *, score_bias: bool = False) -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter of the whole model, in the order of the model; ``kind`` of ``KINDS``."""
    assert kind in KINDS, kind
    shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (config.vocab_size, config.hidden_size)}
    for index in range(config.num_hidden_layers):
        shapes.update({f"model.layers.{index}.{name}": shape for name, shape in _layer_shapes(config).items()})
    shapes[FINAL_NORM] = (config.hidden_size,)
    if kind == "score":
        shapes["score.weight"] = (config.hidden_size, 1)
        if score_bias:
            shapes["score.bias"] = (1,)
    elif not config.tie_word_embeddings:
        shapes["lm_head.weight"] = (config.hidden_size, config.vocab_size)
    return shapes


def _layer_shapes(config: DecoderConfig) -> dict[str, tuple[int, ...]]:
    width, inner, dim = config.hidden_size, config.intermediate_size, config.head_dim
    queries, keys = config.num_attention_heads * dim, config.num_key_value_heads * dim
    linears = {
        "self_attn.q_proj": (width, queries, config.attention_bias),
        "self_attn.k_proj": (width, keys, config.attention_bias),
        "self_attn.v_proj": (width, keys, config.attention_bias),
        "self_attn.o_proj": (queries, width, config.attention_output_bias),
        "mlp.gate_proj": (width, inner, config.mlp_bias),
        "mlp.up_proj": (width, inner, config.mlp_bias),
        "mlp.down_proj": (inner, width, config.mlp_bias),
    }
    shapes: dict[str, tuple[int, ...]] = {}
    for name, (inputs, outputs, bias) in linears.items():
        shapes[f"{name}.weight"] = (inputs, outputs)
        if bias:
            shapes[f"{name}.bias"] = (outputs,)
    if config.qk_norm:
        shapes.update({f"self_attn.{name}.weight": (dim,) for name in _HEAD_NORMS})
    return {**shapes, "input_layernorm.weight": (width,), "post_attention_layernorm.weight": (width,)}


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
    is_head = config.tie_word_embeddings and "score.weight" not in names

    def holds(name: str) -> bool:
        if name.startswith("model.layers."):
            return int(name.split(".")[2]) in layers
        return is_first or (is_last and is_head) if name == EMBEDDING else is_last

    return [name for name in names if holds(name)]


def local_part(
    name: str, shape: Sequence[int], config: DecoderConfig, *, tensor_degree: int, tensor_index: int
) -> Part:
    """Return the rectangle of the whole tensor ``name`` of ``shape`` that process ``tensor_index`` holds."""
    whole, module = Part.whole(name, shape), _module(name)
    if module in _COLUMN_CUT:
        axis = len(shape) - 1
        return whole.along(axis, *_column_cut(module, shape[axis], config, tensor_degree, tensor_index))
    if _is_cut(name):
        unit = config.head_dim if module == "o_proj" else 1
        start, stop = even_cut(shape[0] // unit, tensor_degree, tensor_index)
        return whole.along(0, start * unit, stop * unit)
    return whole


def _module(name: str) -> str:
    """Return ``q_proj`` for ``model.layers.0.self_attn.q_proj.weight``."""
    return name.split(".")[-2]


def _is_cut(name: str) -> bool:
    """Return whether tensor processes hold different rectangles of ``name``; biases of row cuts are whole."""
    return _module(name) in _COLUMN_CUT or (_module(name) in _ROW_CUT and not name.endswith(".bias"))


def _column_cut(module: str, size: int, config: DecoderConfig, degree: int, index: int) -> tuple[int, int]:
    dim = config.head_dim
    if module in _KEYS and config.num_key_value_heads < degree:
        head = index * config.num_key_value_heads // degree
        return head * dim, (head + 1) * dim
    unit = dim if module in (*_KEYS, "q_proj") else 1
    start, stop = even_cut(size // unit, degree, index)
    return start * unit, stop * unit


def parts_of_rank(
    config: DecoderConfig, kind: str, layout: Layout, rank: int, *, score_bias: bool = False
) -> list[Part]:
    """Return what the world rank ``rank`` of ``layout`` holds, before sharding; see ``parallel.initialise``."""
    shapes = whole_shapes(config, kind, score_bias=score_bias)
    stage = rank // (layout.tensor * layout.sharding) % layout.pipeline
    names = held_names(
        list(shapes), config, stage=stage, num_stages=layout.pipeline, chunks_per_stage=layout.virtual_stages
    )
    index = rank % layout.tensor
    return [local_part(name, shapes[name], config, tensor_degree=layout.tensor, tensor_index=index) for name in names]


def tensor_copies(name: str, config: DecoderConfig, *, tensor_degree: int) -> int:
    """Return how many of the tensor processes hold this very rectangle; those that do are neighbours."""
    if _module(name) in _KEYS:
        return max(1, tensor_degree // config.num_key_value_heads)
    return 1 if _is_cut(name) else tensor_degree


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
    by_heads = _module(name) in (*_KEYS, *_HEAD_NORMS)
    on_tokens = not name.startswith("score.")
    return by_heads or (sequence_parallel and on_tokens)


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
