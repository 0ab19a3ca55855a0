"""Prepare a decoder for any kernels: sizes, rotary tables, and weights by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import paddle

from alignment.architecture.cuts import layer_sizes, norm_names, whole_shapes
from alignment.architecture.family import LAYERS
from alignment.architecture.parts import even_cut
from alignment.errors import UserError
from alignment.generation.fused.blocks import blocks_of_slot
from alignment.generation.fused.capabilities import KERNEL_ACTIVATIONS, KERNEL_FLAGS
from alignment.generation.fused.fused_settings import TYPE_BYTES, FusedSettings
from alignment.ops.rms_norm import NORM_OFFSETS, offset_weight
from alignment.parallel.comms.group import Group

_SHOWN_NAMES = 5
_KERNEL_NORMS = {
    "input_norm": "input_layernorm",
    "attended_norm": "attended_norm",
    "feed_norm": "post_attention_layernorm",
    "fed_norm": "fed_norm",
}
"""The kernels' names of norms, by role."""


def share_sizes(config: Any, group: Group) -> dict[str, int | float]:
    """Return the sizes that the kernels need; those that ``group`` splits are this process's share."""
    layer = layer_sizes(config, tensor_degree=group.size, tensor_index=group.index)
    vocab_start, vocab_stop = even_cut(config.vocab_size, group.size, group.index)
    return {
        "num_layers": config.num_hidden_layers,
        "hidden": config.hidden_size,
        "inner": layer.inner,
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
        "plain_feed": not config.family.is_gated,
        "position_rows": config.dimensions["positions"] if config.learned_positions else 0,
        "position_offset": config.family.position_offset,
        "activation": KERNEL_ACTIVATIONS.index(config.activation),
        "embedding_scale": config.embedding_scale if config.scaled_embedding else 0.0,
        **{switch: getattr(config, flag) for switch, flag in KERNEL_FLAGS.items()},
    }


def block_bytes(sizes: Mapping[str, int | float], settings: FusedSettings, *, value_multiple: int = 1) -> int:
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
    def plan(cls, config: Any, settings: FusedSettings, *, block_bytes: int) -> BlockBudget:
        """Return a budget with as many blocks as fit in memory, but no more than all slots can use."""
        longest = min(settings.max_length or config.longest_sequence, config.longest_sequence)
        enough = settings.num_slots * blocks_of_slot(longest, settings.block_tokens)
        return cls(settings.block_tokens, min(settings.kv_bytes // block_bytes, enough), block_bytes, longest)

    def sizes(self) -> dict[str, int]:
        """Return the fields of AcConfig that describe the pool."""
        return {
            "block_tokens": self.block_tokens,
            "num_blocks": max(1, self.num_blocks),
            "max_positions": self.max_length,
        }


def pack_every(config: Any, weights: Iterable[tuple[str, Any]], pack: Callable[[str, paddle.Tensor], None]) -> None:
    """Call ``pack`` on each of ``weights`` (Hugging Face name, tensor); UserError if names do not fit."""
    names, given = frozenset(whole_shapes(config, "causal")), set()
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
    role = next((weight.role for weight in config.family.layer if weight.name == inner), "")
    return f"{LAYERS}{number}.{_KERNEL_NORMS.get(role, inner)}.{ending}"


def kernel_dtype(tensor: paddle.Tensor) -> tuple[paddle.Tensor, str]:
    """Return ``tensor`` contiguous and in float32 or bfloat16, which kernels can read, and the name of that dtype."""
    if tensor.dtype not in (paddle.float32, paddle.bfloat16):
        tensor = tensor.astype("float32")
    return tensor.contiguous(), "bfloat16" if tensor.dtype == paddle.bfloat16 else "float32"


def rotary_tables(config: Any, max_length: int) -> tuple[np.ndarray, np.ndarray]:
    """Return cosines and sines [max_length, D/2] float32."""
    frequencies, scale = config.rotary_frequencies()
    angles = np.arange(max_length, dtype=np.float32)[:, None] * frequencies[None, :]
    return np.cos(angles) * np.float32(scale), np.sin(angles) * np.float32(scale)
