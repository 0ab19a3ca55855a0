"""A packed model with its pool of key-value blocks, held by the kernel library."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import POINTER, c_uint8, c_uint16
from typing import Any, Literal

import numpy as np

from alignment.ops.native.bindings import DATA_TYPES, WEIGHT_TYPES, AcConfig, Reduce, check

DataType = Literal["float32", "bfloat16"]
_SHORTS = POINTER(c_uint16)
ReduceInPlace = Callable[[np.ndarray], None]


class CoreModel:
    """Owns an ``AcModel``; all sizes are those of this tensor-parallel rank."""

    def __init__(self, handle: ctypes.CDLL, sizes: dict[str, Any], *, weight_type: str, kv_type: str) -> None:
        """``sizes`` are the fields of AcConfig without the types: float32, bfloat16 or (weights only) int8."""
        config = AcConfig(
            struct_bytes=ctypes.sizeof(AcConfig),
            weight_type=WEIGHT_TYPES[weight_type],
            kv_type=DATA_TYPES[kv_type],
            **sizes,
        )
        self._handle = handle
        self._vocab = config.vocab
        self._num_layers = config.num_layers
        self._head_half = config.head_dim // 2
        self._tables = config.rotary_tables or 1
        self._long_slots: np.ndarray | None = None
        self._reduce = Reduce()
        self._reduce_failure: BaseException | None = None
        self._model = handle.ac_model_create(config)
        if not self._model:
            check(handle, -1)

    def close(self) -> None:
        """Free weights and blocks; the model cannot be used afterwards."""
        model, self._model = self._model, None
        if model:
            self._handle.ac_model_destroy(model)

    def __del__(self) -> None:
        """Close the model if that was forgotten."""
        if getattr(self, "_model", None):
            self.close()

    @property
    def num_bytes(self) -> int:
        """Bytes of weights and blocks."""
        return self._handle.ac_model_bytes(self._alive())

    @property
    def bytes_read(self) -> int:
        """Bytes of matrices that all calls so far multiplied by, once a call; of the experts, the chosen ones'."""
        return self._handle.ac_model_bytes_read(self._alive())

    def set_weight(self, name: str, address: int, *, dtype: DataType, shape: tuple[int, ...], threads: int = 1) -> None:
        """Pack the parameter ``name`` from contiguous memory at ``address`` (``data_ptr()`` or ``array.ctypes.data``).

        Matrices are [in, out], embeddings [V, H], vectors [n].
        """
        rows, cols = shape if len(shape) == 2 else (1, shape[0])
        call = self._handle.ac_model_set_weight
        self._check(call(self._alive(), name.encode(), address, DATA_TYPES[dtype], rows, cols, threads))

    def set_rotary(self, cosines: np.ndarray, sines: np.ndarray) -> None:
        """Copy the tables [max_positions, head_dim / 2], or of several [tables, max_positions, head_dim / 2]."""
        tables = [np.ascontiguousarray(table, np.float32) for table in (cosines, sines)]
        positions = cosines.shape[-2]
        shape = (self._tables, positions, self._head_half)
        assert all(table.size == np.prod(shape) for table in tables) and cosines.shape[-1] == shape[-1], cosines.shape
        self._check(self._handle.ac_model_set_rotary(self._alive(), *map(_address, tables), positions))

    def set_layers(self, windows: np.ndarray, rotaries: np.ndarray) -> None:
        """Give each layer its window (0: none) and its rotary table, both [num_layers]."""
        arrays = [_as_ints(array) for array in (windows, rotaries)]
        assert all(array.shape == (self._num_layers,) for array in arrays), windows
        self._check(self._handle.ac_model_set_layers(self._alive(), *map(_address, arrays)))

    def set_long_slots(self, is_long: np.ndarray) -> None:
        """Give the rows of a slot the last rotary table where ``is_long`` [slots] uint8 is not 0.

        It may change between passes, which read it; it must have all slots of each.
        """
        assert is_long.dtype == np.uint8 and is_long.ndim == 1 and is_long.flags.c_contiguous
        self._long_slots = is_long  # must not be freed
        address = is_long.ctypes.data_as(POINTER(c_uint8))
        self._check(self._handle.ac_model_set_long_slots(self._alive(), address))

    def set_reduce(self, reduce: ReduceInPlace | None) -> None:
        """Sum partial results over tensor-parallel ranks with ``reduce(array)``, in place; None: one rank."""
        self._reduce = Reduce() if reduce is None else Reduce(self._guard(reduce))
        self._check(self._handle.ac_model_set_reduce(self._alive(), self._reduce, None))

    def set_vocab_range(self, first: int) -> None:
        """Set the token id of this rank's first embedding row."""
        self._check(self._handle.ac_model_set_vocab_range(self._alive(), first))

    def forward(
        self,
        tokens: np.ndarray,
        slots: np.ndarray,
        positions: np.ndarray,
        *,
        block_tables: np.ndarray,
        logit_rows: np.ndarray,
        threads: int,
        chosen: np.ndarray | None = None,
    ) -> np.ndarray:
        """Return float32 logits [len(logit_rows), V] of rows; all arrays are int32, block_tables [slots, blocks].

        The experts that each row is given to are written to ``chosen`` [rows, layers, k] uint16 (None: nowhere), except
        in layers without experts and, in the last layer, for rows without logits.
        """
        if chosen is not None:
            assert chosen.dtype == np.uint16 and chosen.flags.c_contiguous and len(chosen) == len(tokens)
            self._check(self._handle.ac_model_record_experts(self._alive(), chosen.ctypes.data_as(_SHORTS)))
            try:
                return self.forward(
                    tokens, slots, positions, block_tables=block_tables, logit_rows=logit_rows, threads=threads
                )
            finally:
                self._check(self._handle.ac_model_record_experts(self._alive(), None))
        assert len(tokens) == len(slots) == len(positions) and block_tables.ndim == 2
        assert self._long_slots is None or len(block_tables) <= len(self._long_slots)
        rows = [_as_ints(array) for array in (tokens, slots, positions, block_tables)]
        wanted = _as_ints(logit_rows)
        logits = np.empty((len(wanted), self._vocab), np.float32)
        status = self._handle.ac_forward(
            *(self._alive(), len(tokens), *map(_address, rows), block_tables.shape[1]),
            *(len(wanted), _address(wanted), _address(logits), threads),
        )
        failure, self._reduce_failure = self._reduce_failure, None
        if failure is not None:
            raise failure
        self._check(status)
        return logits

    def copy_block(self, source: int, target: int) -> None:
        """Copy block ``source`` over ``target`` in every layer."""
        self._check(self._handle.ac_copy_block(self._alive(), source, target))

    def _guard(self, reduce: ReduceInPlace) -> Callable[..., None]:
        """Return the C callback; it stores exceptions, which ctypes would only print, for ``forward`` to raise."""

        def call(context: int | None, data: ctypes._Pointer, count: int) -> None:
            if self._reduce_failure is not None:
                return
            try:
                reduce(np.ctypeslib.as_array(data, (count,)))
            except BaseException as error:  # noqa: BLE001
                self._reduce_failure = error

        return call

    def _alive(self) -> int:
        assert self._model, "the model was closed"
        return self._model

    def _check(self, status: int) -> int:
        return check(self._handle, status)


def _as_ints(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array, np.int32)


def _address(array: np.ndarray) -> int:
    return array.ctypes.data
