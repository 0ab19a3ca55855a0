"""Find or build the library of CUDA kernels at first use, and call it."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import Any, NamedTuple

from alignment.ops.native import build
from alignment.ops.native.bindings import declare
from alignment.ops.native.cuda import kinds
from alignment.ops.native.cuda.bindings import ABI_VERSION, FUNCTIONS, check


class CudaLibrary:
    """A loaded library; ``reason`` describes in one line which one it is and why."""

    def __init__(self, path: Path, reason: str, *, is_emulated: bool = False) -> None:
        """Load ``path``; OSError or AttributeError if it is not a library of this version.

        With ``is_emulated`` the device is this CPU, and device memory is host memory.
        """
        self.handle = ctypes.CDLL(str(path))
        declare(self.handle, FUNCTIONS)
        if self.handle.acu_abi_version() != ABI_VERSION:
            raise OSError(f"{path} has interface {self.handle.acu_abi_version()}, wanted {ABI_VERSION}")
        self.reason = reason
        self.is_emulated = is_emulated

    def call(self, name: str, *arguments: Any) -> int:
        """Call a function and return its status; MemoryError or RuntimeError with its message on failure."""
        return self.check(getattr(self.handle, name)(*arguments))

    def check(self, status: int) -> int:
        """Return ``status``; MemoryError or RuntimeError if it is an error code."""
        return check(self.handle, status)


class CudaSearch(NamedTuple):
    """The CUDA library that this process uses, if any, and why."""

    library: CudaLibrary | None
    reason: str


@functools.cache
def find_cuda() -> CudaSearch:
    """Return the prebuilt library of the package, a cached build, or a new build with nvcc, in this order."""
    refusals: list[str] = []
    for find in (build.find_prebuilt, build.find_or_build):
        try:
            found = find(kind=kinds.CUDA)
            library = CudaLibrary(found.path, "; ".join([found.origin, *refusals]))
        except (build.KernelBuildError, OSError, AttributeError) as error:
            refusals.append(str(error))
        else:
            return CudaSearch(library, library.reason)
    return CudaSearch(None, "; ".join(refusals))


@functools.cache
def emulated_library() -> CudaLibrary:
    """Return the library that runs on this CPU, for tests; KernelBuildError says why there is none."""
    found = build.find_or_build(kind=kinds.EMULATED)
    return CudaLibrary(found.path, f"emulated, {found.origin}", is_emulated=True)
