"""Which kernels a fused engine has on the device that Paddle computes on."""

from __future__ import annotations

import paddle

from alignment.generation.cuda.cuda_kernels import CudaKernels
from alignment.generation.fused.kernels import CPU_KERNELS, Kernels


def device_kernels() -> Kernels:
    """Return the CPU's kernels on a CPU, the CUDA kernels elsewhere; the first call may build a library."""
    return CPU_KERNELS if paddle.device.get_device() == "cpu" else CudaKernels()
