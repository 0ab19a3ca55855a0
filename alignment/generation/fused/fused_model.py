"""A decoder packed for the CPU kernels of ``ops.native``, with its pool of key-value blocks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import paddle

from alignment.architecture.cuts import parts_of_rank
from alignment.architecture.layout import Layout
from alignment.architecture.parts import even_cut
from alignment.generation.drawing import gather_logits
from alignment.generation.engine_placement import WHOLE_MODEL, EnginePlacement
from alignment.generation.fused.fused_settings import FusedSettings
from alignment.generation.fused.packing import (
    BlockBudget,
    block_bytes,
    kernel_dtype,
    layer_choices,
    pack_every,
    rotary_tables,
    share_sizes,
)
from alignment.generation.fused.scheduler import Step
from alignment.ops.native.library import CoreLibrary

_VALUE_MULTIPLE = 16
"""The kernels pad values to whole vectors."""


class FusedModel:
    """The ``RowModel`` of a DecoderConfig; memory is allocated on construction and freed by ``close``.

    In a tensor-parallel group every process has its share of heads, inner width and vocabulary, and all run the same
    steps.
    """

    def __init__(
        self, core: CoreLibrary, config: Any, settings: FusedSettings, placement: EnginePlacement = WHOLE_MODEL
    ) -> None:
        group = placement.tensor
        sizes = share_sizes(config, group, expert_degree=placement.experts)
        size = block_bytes(sizes, settings, value_multiple=_VALUE_MULTIPLE)
        self.pool = BlockBudget.plan(settings, block_bytes=size, most=config.longest_sequence)
        self._config = config
        self._threads = settings.threads
        self._group = group
        layout = Layout(tensor=group.size, expert=placement.experts)
        self._names = [part.name for part in parts_of_rank(config, "causal", layout, group.index)]
        sizes |= self.pool.sizes()
        self._core = core.create_model(sizes, weight_type=settings.weight_type, kv_type=settings.kv_type)
        self._core.set_rotary(*rotary_tables(config, self.pool.max_length))
        self._core.set_layers(*layer_choices(config))
        self._is_long = np.zeros(settings.num_slots, np.uint8)
        if config.angle_limit is not None:
            self._core.set_long_slots(self._is_long)
        if group.size > 1:
            self._core.set_vocab_range(even_cut(config.vocab_size, group.size, group.index)[0])
            self._core.set_reduce(self._sum)

    @property
    def num_bytes(self) -> int:
        """Bytes of weights and key-value cache."""
        return self._core.num_bytes

    @property
    def bytes_read(self) -> int:
        """Bytes of matrices read by all passes so far: each matrix once a pass, of the experts only the chosen ones."""
        return self._core.bytes_read

    def close(self) -> None:
        """Free the memory."""
        self._core.close()

    def load(self, weights: Iterable[tuple[str, Any]]) -> None:
        """Pack ``weights`` (Hugging Face name, Paddle tensor) over the old ones; UserError if names do not fit."""
        pack_every(self._config, weights, self._pack, names=self._names)

    def copy_block(self, source: int, target: int) -> None:
        """See ``RowModel.copy_block``."""
        self._core.copy_block(source, target)

    def forward(self, step: Step, block_tables: np.ndarray, *, chosen: np.ndarray | None = None) -> np.ndarray:
        """See ``RowModel.forward``.

        A sequence is beyond ``angle_limit`` if its prompt is: no answer crosses that length (``prompt_checks``).
        """
        if self._config.angle_limit is not None:
            for sequence in step.entered:
                self._is_long[sequence.slot] = len(sequence.prompt) > self._config.angle_limit
        logits = self._core.forward(
            step.tokens,
            step.slots,
            step.positions,
            block_tables=block_tables,
            logit_rows=step.logit_rows,
            threads=self._threads,
            chosen=chosen,
        )
        if self._group.size == 1 or not len(logits):
            return logits
        return gather_logits(paddle.to_tensor(logits), self._group, vocab_size=self._config.vocab_size).numpy()

    def _sum(self, partial: np.ndarray) -> None:
        """Replace ``partial`` by its sum over the group; empty: the pass ends within a prompt, and predicts nothing."""
        if not partial.size:
            return
        partial[:] = self._group.sum_(paddle.to_tensor(partial), "fused engine").numpy()

    def _pack(self, name: str, tensor: paddle.Tensor) -> None:
        tensor, dtype = kernel_dtype(tensor.detach().cpu())
        self._core.set_weight(name, tensor.data_ptr(), dtype=dtype, shape=tuple(tensor.shape), threads=self._threads)
