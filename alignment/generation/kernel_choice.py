"""Choose the fused engine's kernels for Paddle's current device."""

from __future__ import annotations

import paddle

from alignment.generation.cuda.cuda_kernels import CudaKernels
from alignment.generation.fused.kernels import CPU_KERNELS, Kernels


def device_kernels() -> Kernels:
    """Return the CPU kernels on a CPU, else the CUDA kernels; the first call may build a library."""
    return CPU_KERNELS if paddle.device.get_device() == "cpu" else CudaKernels()
