"""The CUDA kernels on this processor: the same sources, every thread a fiber. Slow, and without a GPU's products."""

from __future__ import annotations

import shutil

import pytest

from alignment.generation.cuda.cuda_kernels import CudaKernels
from alignment.ops.native.cuda.library import CudaSearch, emulated_library


def emulated_kernels() -> CudaKernels:
    """Return kernels that take tensors on the CPU; the library is built once for a machine. Skip without g++."""
    if shutil.which("g++") is None:
        pytest.skip("no g++")
    library = emulated_library()
    return CudaKernels(CudaSearch(library, library.reason))
