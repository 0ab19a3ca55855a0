"""The one switch between compiled training operators and their Paddle references."""

from __future__ import annotations

import paddle

from alignment.ops.native.library import load_core

_wanted = False


def use_native_ops(enabled: bool) -> None:
    """Let operators of this process use compiled kernels from now on, or not; they do not at first."""
    global _wanted
    _wanted = enabled


def native_ops_enabled() -> bool:
    """True when compiled kernels are wanted and here. The first call looks for the library, and may compile it."""
    return _wanted and load_core() is not None


def runs_natively(*tensors: paddle.Tensor) -> bool:
    """True when an operator on ``tensors`` is to be computed by compiled kernels: float32 on a CPU, and not off."""
    return all(x.dtype == paddle.float32 and x.place.is_cpu_place() for x in tensors) and native_ops_enabled()
