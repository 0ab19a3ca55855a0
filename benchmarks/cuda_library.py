"""csrc/cuda through ctypes: on a device with torch tensors, or emulated on the host with numpy arrays."""

from __future__ import annotations

import ctypes
import subprocess
from ctypes import c_void_p
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from alignment.ops.native.bindings import DATA_TYPES, WEIGHT_TYPES, AcConfig, declare
from alignment.ops.native.cuda.bindings import FUNCTIONS, AcuLimits, check

CUDA_SOURCES = Path(__file__).resolve().parents[1] / "csrc" / "cuda"
FOR_ANY_ROWS = 2**31 - 1


class Memory(Protocol):
    """Where the library's arrays live."""

    def put(self, array: np.ndarray) -> Any:
        """Return a copy of ``array`` there."""

    def get(self, array: Any) -> np.ndarray:
        """Return the numbers once all work is done."""

    def address(self, array: Any) -> int:
        """Return where the first number is."""

    def stream(self) -> int:
        """Return the stream to work on."""


class Host:
    """The memory of the emulated library."""

    def put(self, array: np.ndarray) -> np.ndarray:
        """See ``Memory``."""
        return np.array(array, order="C")

    def get(self, array: np.ndarray) -> np.ndarray:
        """See ``Memory``."""
        return array

    def address(self, array: np.ndarray) -> int:
        """See ``Memory``."""
        return array.ctypes.data

    def stream(self) -> int:
        """See ``Memory``."""
        return 0


class Device:
    """The memory of a CUDA device, as torch tensors on the current stream."""

    def __init__(self) -> None:
        import torch

        self._torch = torch

    def put(self, array: np.ndarray) -> Any:
        """See ``Memory``; unsigned numbers travel as signed ones of the same bits."""
        signed = {"uint32": np.int32, "uint64": np.int64, "uint16": np.int16}.get(array.dtype.name, array.dtype)
        return self._torch.from_numpy(np.array(array, order="C").view(signed)).cuda()

    def get(self, array: Any) -> np.ndarray:
        """See ``Memory``."""
        return array.cpu().numpy()

    def address(self, array: Any) -> int:
        """See ``Memory``."""
        return array.data_ptr()

    def stream(self) -> int:
        """See ``Memory``."""
        return self._torch.cuda.current_stream().cuda_stream


class CudaLibrary:
    """A loaded library and the memory it works in."""

    def __init__(self, path: Path, memory: Memory) -> None:
        self.handle = ctypes.CDLL(str(path))
        self.memory = memory
        declare(self.handle, FUNCTIONS)

    def call(self, name: str, *arguments: Any) -> int:
        """Call a function on the current stream; RuntimeError with its sentence when it fails."""
        code = getattr(self.handle, name)(*arguments, self.memory.stream())
        return self.check(code)

    def check(self, code: int) -> int:
        """Return ``code`` unless it is that of an error."""
        return check(self.handle, code)


class Batch(NamedTuple):
    """Rows of one forward in the library's memory."""

    tokens: Any
    slots: Any
    positions: Any
    block_tables: Any
    """[slots, blocks]"""
    logit_rows: Any
    logits: Any
    """[len(logit_rows), V]"""


class CudaModel:
    """Owns an ``AcuModel``."""

    def __init__(
        self, library: CudaLibrary, sizes: dict[str, int | float], limits: dict[str, int], *, weights: str, kv: str
    ) -> None:
        """``sizes``: the fields of AcConfig but the types; ``limits``: those of AcuLimits."""
        self.library, self._memory = library, library.memory
        self.config = AcConfig(
            struct_bytes=ctypes.sizeof(AcConfig), weight_type=WEIGHT_TYPES[weights], kv_type=DATA_TYPES[kv], **sizes
        )
        room = AcuLimits(struct_bytes=ctypes.sizeof(AcuLimits), **limits)
        self._model = library.handle.acu_model_create(self.config, room)
        if not self._model:
            library.check(-1)

    def close(self) -> None:
        """Give the memory back."""
        if self._model:
            self.library.handle.acu_model_destroy(self._model)
            self._model = None

    @property
    def num_bytes(self) -> int:
        """Bytes of weights, pool and scratch."""
        return self.library.handle.acu_model_bytes(self._model)

    def set_weight(self, name: str, values: Any, *, dtype: str = "float32") -> None:
        """Pack one parameter, an array in the library's memory."""
        rows, cols = values.shape if len(values.shape) == 2 else (1, values.shape[0])
        address = self._memory.address(values)
        self.library.call("acu_model_set_weight", self._model, name.encode(), address, DATA_TYPES[dtype], rows, cols)

    def set_rotary(self, cosines: np.ndarray, sines: np.ndarray) -> None:
        """Copy the tables [positions, head_dim / 2]."""
        tables = [self._memory.put(table.astype(np.float32)) for table in (cosines, sines)]
        addresses = [self._memory.address(table) for table in tables]
        self.library.call("acu_model_set_rotary", self._model, *addresses, len(cosines))

    def set_reduce(self, callback: Any) -> None:
        """Set an AcuReduce as a ctypes function; the caller keeps it alive."""
        address = ctypes.cast(callback, c_void_p)
        self.library.check(self.library.handle.acu_model_set_reduce(self._model, address, None))

    def set_vocab_range(self, first: int) -> None:
        """Say that this rank's embedding rows begin at token id ``first``."""
        self.library.check(self.library.handle.acu_model_set_vocab_range(self._model, first))

    def missing(self) -> tuple[int, str]:
        """Return how many weights were never set, and their names."""
        names = ctypes.create_string_buffer(4096)
        count = self.library.handle.acu_model_missing(self._model, names, len(names))
        return count, names.value.decode()

    def copy_block(self, source: int, target: int) -> None:
        """Copy one block of every layer over another."""
        self.library.call("acu_copy_block", self._model, source, target)

    def batch(self, tokens, slots, positions, block_tables, logit_rows) -> Batch:
        """Put integer arrays into the library's memory, with room for the logits."""
        ints = [np.asarray(x, np.int32) for x in (tokens, slots, positions, block_tables, logit_rows)]
        logits = np.full((len(ints[-1]), self.config.vocab), np.nan, np.float32)
        return Batch(*map(self._memory.put, (*ints, logits)))

    def forward(self, batch: Batch, *, decode_rows: int, longest: int) -> None:
        """Start one forward; the logits are in ``batch.logits`` when the stream gets there."""
        tokens, slots, positions, tables, wanted, logits = map(self._memory.address, batch)
        self.library.call(
            *("acu_forward", self._model, len(batch.tokens), tokens, slots, positions, tables),
            *(batch.block_tables.shape[1], len(batch.logit_rows), wanted, logits, decode_rows, longest),
        )

    def problem(self, batch: Batch, *, longest: int) -> tuple[int, int] | None:
        """Return (row, reason) of the first row that forward must not be given."""
        found = self._memory.put(np.array([FOR_ANY_ROWS], np.int32))
        tokens, slots, positions, tables, *_ = map(self._memory.address, batch)
        self.library.call(
            *("acu_check_rows", self._model, len(batch.tokens), tokens, slots, positions, tables),
            *(batch.block_tables.shape[1], longest, self._memory.address(found)),
        )
        code = int(self._memory.get(found)[0])
        return None if code == FOR_ANY_ROWS else divmod(code - 1, 8)


def build(target: Path, *mode: str) -> Path:
    """Run csrc/cuda/build.sh and return the library."""
    subprocess.run([str(CUDA_SOURCES / "build.sh"), *mode, str(target)], check=True)
    return target
