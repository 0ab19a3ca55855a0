"""Call the update kernels of csrc/core/alignment_training.h: sums of rows and squares, AdamW over a model's tensors."""

from __future__ import annotations

import ctypes
import functools
import math
from collections.abc import Sequence
from ctypes import POINTER, c_float, c_int32, c_int64, c_void_p
from typing import NamedTuple

import numpy as np
import paddle

from alignment.ops.native.bindings import FUNCTIONS, check, declare
from alignment.ops.native.library import load_core

_NUMBERS = ("gradient", "weight", "moment1", "moment2", "power1", "power2")


class _AcNumbers(ctypes.Structure):
    _fields_ = [("count", c_int64), ("numbers", c_void_p)]


class _AcAdam(ctypes.Structure):
    _fields_ = [
        ("struct_bytes", c_int32),
        ("tensor_bytes", c_int32),
        *((name, c_float) for name in ("learning_rate", "beta1", "beta2", "epsilon", "weight_decay", "gradient_scale")),
    ]


class _AcAdamTensor(ctypes.Structure):
    _fields_ = [("count", c_int64), *((name, c_void_p) for name in _NUMBERS), ("decays", c_int32)]


_UPDATES = {
    "ac_sum_of_squares": (c_int32, [c_int32, POINTER(_AcNumbers), c_void_p, c_int32]),
    "ac_add_rows": (c_int32, [c_int64, c_int64, c_void_p, c_void_p, c_void_p, c_int64, c_int32]),
    "ac_adamw": (c_int32, [POINTER(_AcAdam), c_int32, POINTER(_AcAdamTensor), c_int32]),
}


class AdamTensor(NamedTuple):
    """One tensor of an update; all are contiguous float32 on the CPU and change in place."""

    gradient: paddle.Tensor
    weight: paddle.Tensor
    moment1: paddle.Tensor
    moment2: paddle.Tensor
    power1: paddle.Tensor
    """[1]: beta1^t of the t-th step; afterwards that of the next."""
    power2: paddle.Tensor
    decays: bool


def sums_of_squares(tensors: Sequence[paddle.Tensor]) -> np.ndarray:
    """Return the sum of the squares of each tensor, float64 [n]."""
    # math.prod: ``size`` of a tensor takes twenty times as long, the half of this call for a small model.
    sums = np.zeros(len(tensors), np.float64)
    listed = (_AcNumbers * len(tensors))(*((math.prod(x.shape), x.data_ptr()) for x in tensors))
    _call("ac_sum_of_squares", len(tensors), listed, sums.ctypes.data)
    return sums


def add_rows(total: paddle.Tensor, ids: paddle.Tensor, added: paddle.Tensor) -> None:
    """Add the rows ``added`` [M, H] in turn to those of ``total`` [V, H] at ``ids`` [M] int64, in place."""
    assert total.is_contiguous() and added.shape == [ids.size, total.shape[1]] and ids.dtype == paddle.int64
    ids, added = (x if x.is_contiguous() else x.contiguous() for x in (ids, added))
    _call("ac_add_rows", *added.shape, ids.data_ptr(), added.data_ptr(), total.data_ptr(), total.shape[0])


def adamw(
    tensors: Sequence[AdamTensor],
    *,
    learning_rate: float,
    betas: tuple[float, float],
    epsilon: float,
    weight_decay: float,
    gradient_scale: float,
) -> None:
    """Apply one step of AdamW with gradients times ``gradient_scale``; the gradients themselves stay as they are."""
    sizes = ctypes.sizeof(_AcAdam), ctypes.sizeof(_AcAdamTensor)
    settings = _AcAdam(*sizes, learning_rate, *betas, epsilon, weight_decay, gradient_scale)
    rows = ((math.prod(one.weight.shape), *(x.data_ptr() for x in one[: len(_NUMBERS)]), one.decays) for one in tensors)
    listed = (_AcAdamTensor * len(tensors))(*rows)
    _call("ac_adamw", ctypes.byref(settings), len(tensors), listed)


@functools.cache
def _kernels() -> ctypes.CDLL:
    core = load_core()
    assert core is not None, "there is no kernel library; ask selection.native_ops_enabled first"
    handle = ctypes.CDLL(str(core.path))
    declare(handle, FUNCTIONS | _UPDATES)
    return handle


def _call(name: str, *arguments) -> None:
    """Run a kernel with OpenMP's number of threads."""
    handle = _kernels()
    check(handle, getattr(handle, name)(*arguments, 0))
