"""A decoder packed for the kernels of ``ops.native``, with its pool of key-value blocks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import paddle

from alignment.architecture.cuts import layer_sizes, whole_shapes
from alignment.architecture.parts import even_cut
from alignment.errors import UserError
from alignment.generation.drawing import gather_logits
from alignment.generation.fused.blocks import blocks_for
from alignment.generation.fused.capabilities import KERNEL_FLAGS
from alignment.generation.fused.fused_settings import FusedSettings
from alignment.generation.fused.scheduler import Step
from alignment.ops.native.library import CoreLibrary
from alignment.parallel.comms.group import ALONE, Group

_SHOWN_NAMES = 5
_VALUE_MULTIPLE = 16


class FusedModel:
    """The ``RowModel`` of a DecoderConfig; its memory is taken when it is made and given back by ``close``.

    In a tensor-parallel group every process has its share of the heads, the inner width and the vocabulary, and all
    take the same steps.
    """

    def __init__(self, core: CoreLibrary, config: Any, settings: FusedSettings, *, group: Group = ALONE) -> None:
        sizes = share_sizes(config, group)
        self.max_length = min(settings.max_length or config.longest_sequence, config.longest_sequence)
        self.block_bytes = _block_bytes(sizes, settings)
        enough = settings.num_slots * (blocks_for(self.max_length, settings.block_tokens) + 1)
        self.num_blocks = min(settings.kv_bytes // self.block_bytes, enough)
        self._names = frozenset(whole_shapes(config, "causal"))
        self._threads = settings.threads
        self._group = group
        self._vocab_size = config.vocab_size
        sizes |= {
            "block_tokens": settings.block_tokens,
            "num_blocks": max(1, self.num_blocks),
            "max_positions": self.max_length,
        }
        self._core = core.create_model(sizes, weight_type=settings.weight_type, kv_type=settings.kv_type)
        self._core.set_rotary(*_rotary_tables(config, self.max_length))
        if group.size > 1:
            self._core.set_vocab_range(even_cut(config.vocab_size, group.size, group.index)[0])
            self._core.set_reduce(self._sum)

    @property
    def num_bytes(self) -> int:
        """Bytes of weights, keys and values."""
        return self._core.num_bytes

    def close(self) -> None:
        """Give back the memory."""
        self._core.close()

    def load(self, weights: Iterable[tuple[str, Any]]) -> None:
        """Pack ``weights`` (Hugging Face name, Paddle tensor) over the old ones; UserError when names do not fit."""
        given = set()
        for name, tensor in weights:
            if name not in self._names:
                raise UserError(f"fused engine: weight {name!r} is not one of this model's")
            self._pack(name, tensor)
            given.add(name)
        missing = sorted(self._names - given)
        if missing:
            more = f" and {len(missing) - _SHOWN_NAMES} more" if len(missing) > _SHOWN_NAMES else ""
            shown = ", ".join(missing[:_SHOWN_NAMES])
            raise UserError(f"fused engine: {len(missing)} of {len(self._names)} weights were not given: {shown}{more}")

    def copy_block(self, source: int, target: int) -> None:
        """See ``RowModel.copy_block``."""
        self._core.copy_block(source, target)

    def forward(self, step: Step, block_tables: np.ndarray) -> np.ndarray:
        """See ``RowModel.forward``."""
        logits = self._core.forward(
            step.tokens,
            step.slots,
            step.positions,
            block_tables=block_tables,
            logit_rows=step.logit_rows,
            threads=self._threads,
        )
        if self._group.size == 1 or not len(logits):
            return logits
        return gather_logits(paddle.to_tensor(logits), self._group, vocab_size=self._vocab_size).numpy()

    def _sum(self, partial: np.ndarray) -> None:
        """Replace ``partial`` by its sum over the group."""
        partial[:] = self._group.sum_(paddle.to_tensor(partial), "fused engine").numpy()

    def _pack(self, name: str, tensor: paddle.Tensor) -> None:
        tensor = tensor.detach().cpu().contiguous()
        if tensor.dtype not in (paddle.float32, paddle.bfloat16):
            tensor = tensor.astype("float32")
        dtype = "bfloat16" if tensor.dtype == paddle.bfloat16 else "float32"
        shape = tuple(tensor.shape)
        self._core.set_weight(name, tensor.data_ptr(), dtype=dtype, shape=shape, threads=self._threads)


def share_sizes(config: Any, group: Group) -> dict[str, int | float]:
    """Return what the kernels need to know of the model's shape; where the group cuts it, of this process's share."""
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
        **{switch: getattr(config, flag) for switch, flag in KERNEL_FLAGS.items()},
    }


def _block_bytes(sizes: Mapping[str, int | float], settings: FusedSettings) -> int:
    """Return the bytes of the keys and values of one block in all layers; the kernels pad values to whole vectors."""
    width = sizes["head_dim"] + -(-sizes["head_dim"] // _VALUE_MULTIPLE) * _VALUE_MULTIPLE
    numbers = sizes["num_layers"] * sizes["kv_heads"] * width * settings.block_tokens
    return numbers * (4 if settings.kv_type == "float32" else 2)


def _rotary_tables(config: Any, max_length: int) -> tuple[np.ndarray, np.ndarray]:
    """Return cosines and sines [max_length, D/2] float32."""
    frequencies, scale = config.rotary_frequencies()
    angles = np.arange(max_length, dtype=np.float32)[:, None] * frequencies[None, :]
    return np.cos(angles) * np.float32(scale), np.sin(angles) * np.float32(scale)
