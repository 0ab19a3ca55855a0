"""A decoder packed for the CUDA kernels, with its pool of key-value blocks, on the device."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import paddle

from alignment.architecture.parts import even_cut
from alignment.device.memory import BESIDE_PADDLE
from alignment.errors import UserError
from alignment.generation.cuda.graphs import ForwardGraphs, RowArrays, padded_rows
from alignment.generation.cuda.paddle_device import Packet, PaddleDevice
from alignment.generation.drawing import gather_logits
from alignment.generation.fused.blocks import blocks_for
from alignment.generation.fused.fused_settings import FusedSettings
from alignment.generation.fused.packing import (
    BlockBudget,
    block_bytes,
    kernel_dtype,
    pack_every,
    rotary_tables,
    share_sizes,
)
from alignment.generation.fused.scheduler import Step
from alignment.ops.native.bindings import DATA_TYPES, WEIGHT_TYPES, AcConfig
from alignment.ops.native.cuda.bindings import AcuLimits, Reduce
from alignment.parallel.comms.group import ALONE, Group

_ROW_BYTES = 64
"""Bytes in a packet for a row's four numbers, alignment included."""


class CudaModel:
    """The ``PackedModel`` of a DecoderConfig on a device; runs the same steps as ``FusedModel``.

    Logits stay on the device: ``forward`` returns a tensor of which only the first rows count.
    """

    def __init__(self, device: PaddleDevice, config: Any, settings: FusedSettings, *, group: Group = ALONE) -> None:
        sizes = share_sizes(config, group)
        size, most = block_bytes(sizes, settings), config.longest_answered(1)
        self.pool = BlockBudget.plan(settings, block_bytes=size, most=most)
        self._device, self._config, self._group = device, config, group
        self._most_decoding = padded_rows(settings.num_slots)
        self._model = self._create(sizes, settings)
        BESIDE_PADDLE.change(self.num_bytes)
        self._reduce, self._reduce_failure = Reduce(), None
        self._set_tables()
        if group.size > 1:
            self._join_ranks()
        self._graphs = ForwardGraphs(device, self._model, self.pool.max_length) if group.size == 1 else None
        self._tables = np.zeros((settings.num_slots, blocks_for(self.pool.max_length, settings.block_tokens)), np.int32)
        self._packet = Packet(device, (self._most_rows(settings) + 1) * _ROW_BYTES + self._tables.nbytes)
        self._logits = device.empty([self._most_decoding, sizes["vocab"]], "float32")

    @property
    def num_bytes(self) -> int:
        """Bytes of weights, key-value cache and scratch memory on the device."""
        return self._device.library.handle.acu_model_bytes(self._model)

    def close(self) -> None:
        """Free the memory."""
        if self._model:
            BESIDE_PADDLE.change(-self.num_bytes)
            model, self._model, self._graphs = self._model, None, None
            self._device.library.handle.acu_model_destroy(model)

    def __del__(self) -> None:
        """Close the model if that was forgotten."""
        if getattr(self, "_model", None):
            self.close()

    def load(self, weights: Iterable[tuple[str, Any]]) -> None:
        """Pack ``weights`` (Hugging Face name, Paddle tensor) over the old ones; UserError if names do not fit."""
        pack_every(self._config, weights, self._pack)

    def copy_block(self, source: int, target: int) -> None:
        """See ``RowModel.copy_block``."""
        self._device.call("acu_copy_block", self._model, source, target)

    def forward(self, step: Step, block_tables: np.ndarray) -> paddle.Tensor:
        """Enqueue the rows of ``step`` on the stream; return the tensor [L or more, V] that will hold their logits."""
        rows = self._send_rows(step, block_tables)
        if self._graphs is not None:
            self._graphs.run(rows)
            return self._logits
        self._reduce_failure = None
        try:
            self._device.call("acu_forward", self._model, *rows.arguments(rows.longest))
        finally:
            if self._reduce_failure is not None:
                raise self._reduce_failure
        if rows.num_logits == 0:
            return self._logits
        return gather_logits(self._logits[: rows.num_logits], self._group, vocab_size=self._config.vocab_size)

    def _send_rows(self, step: Step, block_tables: np.ndarray) -> RowArrays:
        """Send the arrays of ``step`` to the device and return their addresses.

        A step with only decoding rows is padded with idle rows, so that few sizes occur.
        """
        num_rows, num_logits = len(step.tokens), len(step.logit_rows)
        num_slots, width = block_tables.shape
        self._tables[:num_slots, :width] = block_tables
        decoding = _leading_decode_rows(step.logit_rows)
        is_decode = self._graphs is not None and decoding == num_rows
        size = padded_rows(num_rows) if is_decode else num_rows
        logits = size if is_decode else num_logits
        self._packet.begin()
        addresses = []
        for values, idle, length in (
            (step.tokens, 0, size),
            (step.slots, -1, size),
            (step.positions, 0, size),
            (self._tables.reshape(-1), 0, self._tables.size),
            (step.logit_rows, 0, logits),
        ):
            array, address = self._packet.add((length,), np.int32)
            array[: len(values)], array[len(values) :] = values, idle
            addresses.append(address)
        self._packet.send()
        return RowArrays(
            num_rows=size,
            num_logits=logits,
            num_decoding=min(size if is_decode else decoding, self._most_decoding),
            max_blocks=self._tables.shape[1],
            addresses=tuple(addresses),
            logits=self._logits.data_ptr(),
            longest=int(step.positions.max()) + 1,
            repeats=is_decode,
        )

    def _most_rows(self, settings: FusedSettings) -> int:
        return max(settings.max_rows, self._most_decoding, settings.num_slots + 1)

    def _create(self, sizes: Mapping[str, int | float], settings: FusedSettings) -> int:
        config = AcConfig(
            struct_bytes=ctypes.sizeof(AcConfig),
            weight_type=WEIGHT_TYPES[settings.weight_type],
            kv_type=DATA_TYPES[settings.kv_type],
            **sizes,
            **self.pool.sizes(),
        )
        limits = AcuLimits(
            struct_bytes=ctypes.sizeof(AcuLimits),
            max_rows=self._most_rows(settings),
            max_decode_rows=self._most_decoding,
            max_logit_rows=self._most_decoding,
            row_invariant=1,
        )
        self._device.make_room()
        handle = self._device.library.handle
        model = handle.acu_model_create(config, limits)
        if not model:
            sentence = handle.acu_last_error().decode()
            raise UserError(
                f"the CUDA kernels cannot hold the model: {sentence}; give a smaller rollout_kv_memory or "
                "per_device_rollout_batch_size, or use_fusemt=false"
            )
        return model

    def _set_tables(self) -> None:
        tables = [self._device.put(np.ascontiguousarray(x)) for x in rotary_tables(self._config, self.pool.max_length)]
        addresses = [table.data_ptr() for table in tables]
        self._device.call("acu_model_set_rotary", self._model, *addresses, self.pool.max_length)

    def _join_ranks(self) -> None:
        library, first = self._device.library, even_cut(self._config.vocab_size, self._group.size, self._group.index)[0]
        self._reduce = Reduce(self._sum)
        library.call("acu_model_set_vocab_range", self._model, first)
        library.call("acu_model_set_reduce", self._model, ctypes.cast(self._reduce, ctypes.c_void_p), None)

    def _sum(self, context: int | None, data: int, count: int, stream: int | None) -> None:
        """Replace ``count`` floats at ``data`` by their sum over the group.

        Exceptions, which ctypes would only print, are stored for ``forward`` to raise.
        """
        if self._reduce_failure is not None:
            return
        try:
            partial = self._device.empty([count], "float32")
            self._device.call("acu_move", partial.data_ptr(), data, 4 * count)
            self._group.sum_(partial, "fused engine")
            self._device.call("acu_move", data, partial.data_ptr(), 4 * count)
        except BaseException as error:  # noqa: BLE001
            self._reduce_failure = error

    def _pack(self, name: str, tensor: paddle.Tensor) -> None:
        tensor, dtype = kernel_dtype(self._device.bring(tensor))
        rows, cols = tensor.shape if tensor.ndim == 2 else (1, tensor.shape[0])
        arguments = (name.encode(), tensor.data_ptr(), DATA_TYPES[dtype], rows, cols)
        self._device.call("acu_model_set_weight", self._model, *arguments)


def _leading_decode_rows(logit_rows: np.ndarray) -> int:
    """Return how many leading rows have logits: the decoding rows, which the scheduler puts first."""
    different = np.flatnonzero(logit_rows != np.arange(len(logit_rows)))
    return int(different[0]) if len(different) else len(logit_rows)
