"""The switch between compiled training operators and their Paddle references."""

from __future__ import annotations

import paddle

from alignment.ops.native.library import load_core

_wanted = False


def use_native_ops(enabled: bool) -> None:
    """Set whether operators of this process use compiled kernels; the default is not to."""
    global _wanted
    _wanted = enabled


def native_ops_enabled() -> bool:
    """Return whether compiled kernels are enabled and available; the first call may compile the library."""
    return _wanted and load_core() is not None


def runs_natively(*tensors: paddle.Tensor) -> bool:
    """Return whether compiled kernels compute operators on ``tensors``: float32 on a CPU, and enabled."""
    return all(x.dtype == paddle.float32 and x.place.is_cpu_place() for x in tensors) and native_ops_enabled()
