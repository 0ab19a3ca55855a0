"""Find or build the CPU kernel library at first use, and call it."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from ctypes import c_void_p
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from alignment.ops.native import build, toolchain
from alignment.ops.native.bindings import ABI_VERSION, AcSampling, check, declare
from alignment.ops.native.core_model import CoreModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How to draw tokens; the fields are as in ``GenerationOptions``."""

    usable_vocab: int
    """Ids from this one on are never drawn."""
    do_sample: bool = True
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    stop_token_ids: tuple[int, ...] = ()
    """Tokens that are forbidden in rows with ``forbid_stops``."""

    def pack(self) -> AcSampling:
        """Return the structure of the C interface."""
        return AcSampling(
            struct_bytes=ctypes.sizeof(AcSampling),
            do_sample=self.do_sample,
            top_k=self.top_k,
            usable_vocab=self.usable_vocab,
            temperature=self.temperature,
            repetition_penalty=self.repetition_penalty,
            top_p=self.top_p,
        )


class CoreLibrary:
    """A loaded kernel library; ``reason`` describes in one line which one it is and why."""

    def __init__(self, path: Path, reason: str) -> None:
        """Load ``path``; OSError or AttributeError if it is not a kernel library of this version."""
        toolchain.preload_openmp()
        self._handle = ctypes.CDLL(str(path))
        declare(self._handle)
        if self._handle.ac_abi_version() != ABI_VERSION:
            raise OSError(f"{path} has interface {self._handle.ac_abi_version()}, wanted {ABI_VERSION}")
        self.path = path
        self.reason = reason

    @property
    def isa(self) -> str:
        """Instruction set in use: scalar, avx2, avx512, avx512bf16, avx512amx or neon."""
        return self._handle.ac_isa().decode()

    def set_isa(self, name: str) -> None:
        """Switch to another instruction set; RuntimeError if this machine or library does not have it."""
        check(self._handle, self._handle.ac_set_isa(name.encode()))

    def create_model(
        self, sizes: dict[str, int | float], *, weight_type: str = "float32", kv_type: str = "float32"
    ) -> CoreModel:
        """Return a model without weights; ``sizes`` are the other fields of AcConfig."""
        return CoreModel(self._handle, sizes, weight_type=weight_type, kv_type=kv_type)

    def sample(
        self,
        logits: np.ndarray,
        uniforms: np.ndarray,
        sampling: Sampling,
        *,
        forbid_stops: np.ndarray | None = None,
        seen: Sequence[np.ndarray] | None = None,
        threads: int = 1,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return (tokens [B] int64, log-probs [B] float32) for logits [B, V] float32 and uniforms [B] float64.

        ``forbid_stops`` [B]: True forbids stop tokens. ``seen``: per row [V] bool or uint8, True for tokens that
        occurred; only needed with a repetition penalty, and not modified. NotFiniteError names a damaged row.
        """
        rows, vocab = logits.shape
        logits, uniforms = np.ascontiguousarray(logits, np.float32), np.ascontiguousarray(uniforms, np.float64)
        assert uniforms.shape == (rows,) and (forbid_stops is None or forbid_stops.shape == (rows,))
        stops = np.asarray(sampling.stop_token_ids, np.int32)
        forbid = None if forbid_stops is None else np.ascontiguousarray(forbid_stops, np.uint8)
        tokens, logprobs = np.empty(rows, np.int64), np.empty(rows, np.float32)
        status = self._handle.ac_sample(
            *(rows, vocab, logits.ctypes.data, uniforms.ctypes.data, sampling.pack()),
            *(stops.ctypes.data, len(stops), None if forbid is None else forbid.ctypes.data),
            *(_row_pointers(seen, rows, vocab), tokens.ctypes.data, logprobs.ctypes.data, threads),
        )
        check(self._handle, status)
        return tokens, logprobs

    def philox_uniform(self, seed: int, sequence_ids: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Return float64 [B] in [0, 1), bit-identical to ``generation.random_numbers.uniform``, for inputs [B]."""
        assert sequence_ids.shape == positions.shape and sequence_ids.ndim == 1
        ids = np.ascontiguousarray(sequence_ids.astype(np.uint64))
        counters = np.ascontiguousarray((positions.astype(np.uint64) & np.uint64(0xFFFFFFFF)).astype(np.uint32))
        numbers = np.empty(len(ids), np.float64)
        self._handle.ac_philox_uniform(
            seed & 0xFFFFFFFFFFFFFFFF, len(ids), ids.ctypes.data, counters.ctypes.data, numbers.ctypes.data
        )
        return numbers


class Search(NamedTuple):
    """The kernel library that this process uses, if any, and why."""

    core: CoreLibrary | None
    reason: str


@functools.cache
def find_core() -> Search:
    """Return the prebuilt library of the package, a cached build, or a new build, in this order.

    ``core`` is None if there is none; then the eager engine generates.
    """
    refusals: list[str] = []
    for find in (build.find_prebuilt, build.find_or_build):
        try:
            library = find()
            core = CoreLibrary(library.path, "; ".join([library.origin, *refusals]))
        except (build.KernelBuildError, OSError, AttributeError) as error:
            refusals.append(str(error))
        else:
            return Search(core, core.reason)
    return Search(None, "; ".join(refusals))


def load_core() -> CoreLibrary | None:
    """Return the kernel library of this process, None if there is none (``find_core().reason`` says why)."""
    return find_core().core


def _row_pointers(rows: Sequence[np.ndarray] | None, count: int, length: int) -> ctypes.Array | None:
    """Return the addresses of byte rows; the caller must keep the arrays alive."""
    if rows is None:
        return None
    assert len(rows) == count
    for row in rows:
        assert row.shape == (length,) and row.dtype.itemsize == 1 and row.flags.c_contiguous
    return (c_void_p * count)(*(row.ctypes.data for row in rows))
