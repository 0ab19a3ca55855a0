"""Prepare a decoder for any kernels: sizes, rotary tables, and weights by name."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import paddle

from alignment.architecture.cuts import expert_share, layer_sizes, norm_names, whole_shapes
from alignment.architecture.family import EACH, EXPERT, LAYERS
from alignment.architecture.parts import even_cut
from alignment.errors import UserError
from alignment.generation.fused.blocks import blocks_of_slot
from alignment.generation.fused.capabilities import KERNEL_ACTIVATIONS, KERNEL_FLAGS
from alignment.generation.fused.fused_settings import TYPE_BYTES, FusedSettings
from alignment.ops.rms_norm import NORM_OFFSETS, offset_weight
from alignment.parallel.comms.group import Group

_SHOWN_NAMES = 5
_KERNEL_NAMES = {
    "input_norm": "input_layernorm",
    "attended_norm": "attended_norm",
    "feed_norm": "post_attention_layernorm",
    "fed_norm": "fed_norm",
    "router": "mlp.gate",
    "expert_gate": f"mlp.experts.{EACH}.gate_proj",
    "expert_up": f"mlp.experts.{EACH}.up_proj",
    "expert_down": f"mlp.experts.{EACH}.down_proj",
}
"""The kernels' names of norms and experts, by role."""
_SUM_NAMES = {"input_norm": "attended_sum_norm", "feed_norm": "fed_sum_norm"}
"""Those of norms that follow the sums (``norms_sums``)."""


def share_sizes(config: Any, group: Group, *, expert_degree: int = 1) -> dict[str, Any]:
    """Return the sizes that the kernels need; those that ``group`` splits are this process's share.

    ``expert_degree`` groups of its processes have different experts.
    """
    layer = layer_sizes(config, tensor_degree=group.size, tensor_index=group.index)
    vocab_start, vocab_stop = even_cut(config.vocab_size, group.size, group.index)
    return {
        "num_layers": config.num_hidden_layers,
        "hidden": config.hidden_size,
        "inner": layer.inner if config.experts is None or config.experts.dense_layers else 0,
        "heads": layer.heads,
        "kv_heads": layer.kv_heads,
        "head_dim": config.head_dim,
        "vocab": vocab_stop - vocab_start,
        "rms_eps": config.rms_norm_eps,
        "window": config.sliding_window or 0,
        "layer_norm": config.family.norm == "layer",
        "parallel": config.parallel_block,
        "no_feed_norm": config.shared_norm,
        "no_pre_norms": config.family.has_norms("none before"),
        "post_norms": config.family.has_norms("after"),
        "sum_norms": config.norms_sums,
        "embedding_width": config.embedding_size or 0,
        "plain_feed": not config.family.is_gated,
        "position_rows": config.dimensions["positions"] if config.learned_positions else 0,
        "position_offset": config.family.position_offset,
        "activation": KERNEL_ACTIVATIONS.index(config.activation),
        **expert_sizes(config, group, expert_degree),
        "head_bias": config.head_bias,
        "rotary_tables": len(_table_kinds(config)),
        "attention_scale": (config.query_pre_attn_scalar or config.head_dim) ** -0.5,
        "attention_cap": config.attention_cap,
        "logit_cap": config.logit_cap,
        "embedding_scale": config.embedding_scale if config.scaled_embedding else 0.0,
        **{switch: getattr(config, flag) for switch, flag in KERNEL_FLAGS.items()},
        "qk_norm": 2 if config.family.norms_all_heads else config.qk_norm,
    }


def expert_sizes(config: Any, group: Group, expert_degree: int) -> dict[str, Any]:
    """Return the sizes of this process's share of the experts; empty for a model without."""
    experts = config.experts
    if experts is None:
        return {}
    share = expert_share(config, group.size, group.index, expert_degree)
    start, stop = even_cut(experts.inner, share.degree, share.index)
    shared_start, shared_stop = even_cut(experts.shared_inner, group.size, group.index)
    is_dense = [number in experts.dense_layers for number in range(config.num_hidden_layers)]
    return {
        "experts": experts.count,
        "top_k": experts.top_k,
        "normalises": experts.normalises,
        "first_expert": share.experts.start,
        "held_experts": len(share.experts),
        "expert_inner": stop - start,
        "shared_inner": shared_stop - shared_start,
        "dense_layers": bytes(is_dense) if any(is_dense) else None,
    }


def block_bytes(sizes: Mapping[str, Any], settings: FusedSettings, *, value_multiple: int = 1) -> int:
    """Return the bytes of the keys and values of one block in all layers; values are padded to ``value_multiple``."""
    width = sizes["head_dim"] + -(-sizes["head_dim"] // value_multiple) * value_multiple
    numbers = sizes["num_layers"] * sizes["kv_heads"] * width * settings.block_tokens
    return int(numbers) * TYPE_BYTES[settings.kv_type]


class BlockBudget(NamedTuple):
    """The size of the pool of key-value blocks, and the longest sequence."""

    block_tokens: int
    num_blocks: int
    block_bytes: int
    """Bytes of the keys and values of one block, over all layers."""
    max_length: int

    @classmethod
    def plan(cls, settings: FusedSettings, *, block_bytes: int, most: int) -> BlockBudget:
        """Return a budget with as many blocks as fit in memory, but no more than all slots can use.

        ``most`` are the tokens of the longest sequence that the kernels can run.
        """
        longest = min(settings.max_length or most, most)
        enough = settings.num_slots * blocks_of_slot(longest, settings.block_tokens)
        return cls(settings.block_tokens, min(settings.kv_bytes // block_bytes, enough), block_bytes, longest)

    def sizes(self) -> dict[str, int]:
        """Return the fields of AcConfig that describe the pool."""
        return {
            "block_tokens": self.block_tokens,
            "num_blocks": max(1, self.num_blocks),
            "max_positions": self.max_length,
        }


def pack_every(
    config: Any,
    weights: Iterable[tuple[str, Any]],
    pack: Callable[[str, paddle.Tensor], None],
    *,
    names: Collection[str] = (),
) -> None:
    """Call ``pack`` on each of ``weights`` (Hugging Face name, tensor); UserError if names do not fit.

    They are those of ``names``; empty: of the whole model.
    """
    names, given = frozenset(names or whole_shapes(config, "causal")), set()
    norms, offset = norm_names(config), NORM_OFFSETS[config.family.norm]
    for name, tensor in weights:
        if name not in names:
            raise UserError(f"fused engine: weight {name!r} is not one of this model's")
        pack(kernel_name(config, name), offset_weight(tensor, offset) if name in norms else tensor)
        given.add(name)
    missing = sorted(names - given)
    if missing:
        more = f" and {len(missing) - _SHOWN_NAMES} more" if len(missing) > _SHOWN_NAMES else ""
        shown = ", ".join(missing[:_SHOWN_NAMES])
        raise UserError(f"fused engine: {len(missing)} of {len(names)} weights were not given: {shown}{more}")


def kernel_name(config: Any, name: str) -> str:
    """Return the kernels' name for the parameter ``name``: Llama's, by its role in the layer."""
    if not name.startswith(LAYERS):
        return name
    stem, _, ending = name.rpartition(".")
    number, _, inner = stem.removeprefix(LAYERS).partition(".")
    expert = inner.partition(EXPERT)[2].partition(".")[0]
    name = inner.replace(f"{EXPERT}{expert}.", f"{EXPERT}{EACH}.") if expert else inner
    role = next((weight.role for weight in config.family.layer if weight.name == name), "")
    names = {**_KERNEL_NAMES, **_SUM_NAMES} if config.norms_sums else _KERNEL_NAMES
    return f"{LAYERS}{number}.{names.get(role, inner).replace(EACH, expert)}.{ending}"


def kernel_dtype(tensor: paddle.Tensor) -> tuple[paddle.Tensor, str]:
    """Return ``tensor`` contiguous and in float32 or bfloat16, which kernels can read, and the name of that dtype."""
    if tensor.dtype not in (paddle.float32, paddle.bfloat16):
        tensor = tensor.astype("float32")
    return tensor.contiguous(), "bfloat16" if tensor.dtype == paddle.bfloat16 else "float32"


def rotary_tables(config: Any, max_length: int) -> tuple[np.ndarray, np.ndarray]:
    """Return cosines and sines [max_length, D/2] float32; [2, max_length, D/2] if some rows have others.

    These are the rows of layers with a window, or of sequences beyond ``angle_limit``, whose table is the last.
    """
    pairs = [_tables_of(*config.rotary_frequencies(**kind), max_length) for kind in _table_kinds(config)]
    if len(pairs) == 1:
        return pairs[0]
    cosines, sines = zip(*pairs, strict=True)
    return np.stack(cosines), np.stack(sines)


def _table_kinds(config: Any) -> list[dict[str, bool]]:
    """Return what distinguishes each rotary table, as ``rotary_frequencies`` takes it."""
    local = [] if config.rope_local_base_freq is None else [{"is_local": True}]
    return [{}, *local, *([] if config.angle_limit is None else [{"is_long": True}])]


def _tables_of(frequencies: np.ndarray, scale: float, max_length: int) -> tuple[np.ndarray, np.ndarray]:
    angles = np.arange(max_length, dtype=np.float32)[:, None] * frequencies[None, :]
    return np.cos(angles) * np.float32(scale), np.sin(angles) * np.float32(scale)


def layer_choices(config: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the window (0: none) and the rotary table of each layer, [num_layers] each."""
    numbers = range(config.num_hidden_layers)
    local = np.array([config.is_local(number) for number in numbers])
    has_own = config.rope_local_base_freq is not None
    return np.where(local, config.sliding_window or 0, 0), np.where(local & has_own, 1, 0)
