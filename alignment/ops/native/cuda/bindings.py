"""ctypes bindings of csrc/cuda/alignment_cuda.h: structures, functions and error codes."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_char_p, c_int32, c_int64, c_uint64, c_void_p
from typing import Any

from alignment.ops.native.bindings import AcConfig, AcSampling

ABI_VERSION = 3
"""ACU_ABI_VERSION of the header these bindings were written for."""

_NO_MEMORY = -2

Reduce = ctypes.CFUNCTYPE(None, c_void_p, c_void_p, c_int64, c_void_p)
"""AcuReduce: (context, data, count, stream) enqueues the sum of data over the tensor-parallel ranks on the stream."""


class AcuLimits(ctypes.Structure):
    """The capacity of a model; the header explains the fields."""

    _fields_ = [
        (name, c_int32) for name in ("struct_bytes", "max_rows", "max_decode_rows", "max_logit_rows", "row_invariant")
    ]


_P, _I = c_void_p, c_int32
FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "acu_abi_version": (_I, []),
    "acu_last_error": (c_char_p, []),
    "acu_model_create": (_P, [POINTER(AcConfig), POINTER(AcuLimits)]),
    "acu_model_destroy": (None, [_P]),
    "acu_model_bytes": (c_int64, [_P]),
    "acu_model_set_weight": (_I, [_P, c_char_p, _P, _I, c_int64, c_int64, _P]),
    "acu_model_missing": (_I, [_P, c_char_p, _I]),
    "acu_model_set_rotary": (_I, [_P, _P, _P, _I, _P]),
    "acu_model_set_reduce": (_I, [_P, _P, _P]),
    "acu_model_set_vocab_range": (_I, [_P, _I]),
    "acu_forward": (_I, [_P, _I, _P, _P, _P, _P, _I, _I, _P, _P, _I, _I, _P]),
    "acu_check_rows": (_I, [_P, _I, _P, _P, _P, _P, _I, _I, _P, _P]),
    "acu_copy_block": (_I, [_P, _I, _I, _P]),
    "acu_sample_bytes": (c_int64, [_I, _I]),
    "acu_sample": (_I, [_I, _I, _P, _P, POINTER(AcSampling), _P, _I, _P, _P, _P, _P, _P, _P, _P]),
    "acu_philox_uniform": (_I, [c_uint64, _I, _P, _P, _P, _P]),
    "acu_advance": (_I, [_I, _P, _P, _P, _P, _P, _P]),
    "acu_use_device": (_I, [_I]),
    "acu_write": (_I, [_P, _P, c_int64, _P]),
    "acu_move": (_I, [_P, _P, c_int64, _P]),
    "acu_read": (_I, [_P, _P, c_int64, _P]),
    "acu_graph_begin": (_P, [POINTER(c_void_p)]),
    "acu_graph_end": (_I, [_P]),
    "acu_graph_launch": (_I, [_P, _P]),
    "acu_graph_destroy": (None, [_P]),
}


def check(handle: ctypes.CDLL, status: int) -> int:
    """Return ``status``; for an error code raise MemoryError or RuntimeError with its message."""
    if status >= 0:
        return status
    sentence = handle.acu_last_error().decode()
    if status == _NO_MEMORY:
        raise MemoryError(sentence)
    raise RuntimeError(f"the CUDA kernels refused a call: {sentence}")
