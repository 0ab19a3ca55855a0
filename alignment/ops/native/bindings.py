"""ctypes bindings of csrc/core/alignment_core.h: structures, functions and error codes."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from ctypes import (
    POINTER,
    c_char_p,
    c_double,
    c_float,
    c_int32,
    c_int64,
    c_uint8,
    c_uint16,
    c_uint64,
    c_void_p,
)
from typing import Any

from alignment.errors import NotFiniteError

ABI_VERSION = 1
"""AC_ABI_VERSION of the header these bindings were written for."""

DATA_TYPES = {"float32": 0, "bfloat16": 1}
WEIGHT_TYPES = {**DATA_TYPES, "int8": 2}
"""AcDataType and AcWeightType by name."""

_NO_MEMORY, _NOT_FINITE = -2, -4

Reduce = ctypes.CFUNCTYPE(None, c_void_p, POINTER(c_float), c_int64)
"""AcReduce: (context, data, count) replaces data by its sum over the tensor-parallel ranks."""


class AcConfig(ctypes.Structure):
    """Sizes and options of one model; the header says what each field means."""

    _fields_ = [
        ("struct_bytes", c_int32),
        *((name, c_int32) for name in ("num_layers", "hidden", "inner", "heads", "kv_heads", "head_dim", "vocab")),
        ("rms_eps", c_float),
        *((name, c_int32) for name in ("window", "qk_norm", "qkv_bias", "output_bias", "mlp_bias")),
        *((name, c_int32) for name in ("layer_norm", "activation", "plain_feed")),
        *((name, c_int32) for name in ("experts", "top_k", "normalises", "first_expert", "held_experts")),
        *((name, c_int32) for name in ("expert_inner", "shared_inner")),
        ("dense_layers", c_char_p),
        *((name, c_int32) for name in ("parallel", "no_feed_norm")),
        *((name, c_int32) for name in ("no_pre_norms", "post_norms", "sum_norms")),
        *((name, c_int32) for name in ("position_rows", "position_offset", "embedding_width")),
        *((name, c_float) for name in ("embedding_scale", "attention_scale", "attention_cap", "logit_cap")),
        *((name, c_int32) for name in ("head_bias", "rotary_tables", "tied")),
        *((name, c_int32) for name in ("weight_type", "kv_type", "block_tokens", "num_blocks", "max_positions")),
    ]


class AcSampling(ctypes.Structure):
    """How tokens are drawn; the header says what each field means."""

    _fields_ = [
        ("struct_bytes", c_int32),
        ("do_sample", c_int32),
        ("top_k", c_int32),
        ("usable_vocab", c_int32),
        ("temperature", c_float),
        ("repetition_penalty", c_float),
        ("top_p", c_double),
    ]


_INTS = _LONGS = _FLOATS = _DOUBLES = _BYTES = c_void_p
"""Addresses of arrays: making a typed pointer takes as long as drawing a tiny model's token."""
_MODEL = c_void_p
FUNCTIONS = {
    "ac_abi_version": (c_int32, []),
    "ac_last_error": (c_char_p, []),
    "ac_isa": (c_char_p, []),
    "ac_set_isa": (c_int32, [c_char_p]),
    "ac_model_create": (_MODEL, [POINTER(AcConfig)]),
    "ac_model_destroy": (None, [_MODEL]),
    "ac_model_bytes": (c_int64, [_MODEL]),
    "ac_model_bytes_read": (c_int64, [_MODEL]),
    "ac_model_set_weight": (c_int32, [_MODEL, c_char_p, c_void_p, c_int32, c_int64, c_int64, c_int32]),
    "ac_model_set_rotary": (c_int32, [_MODEL, _FLOATS, _FLOATS, c_int32]),
    "ac_model_set_layers": (c_int32, [_MODEL, _INTS, _INTS]),
    "ac_model_set_long_slots": (c_int32, [_MODEL, POINTER(c_uint8)]),
    "ac_model_set_reduce": (c_int32, [_MODEL, Reduce, c_void_p]),
    "ac_model_set_vocab_range": (c_int32, [_MODEL, c_int32]),
    "ac_model_record_experts": (c_int32, [_MODEL, POINTER(c_uint16)]),
    "ac_forward": (
        c_int32,
        [_MODEL, c_int32, _INTS, _INTS, _INTS, _INTS, c_int32, c_int32, _INTS, _FLOATS, c_int32],
    ),
    "ac_copy_block": (c_int32, [_MODEL, c_int32, c_int32]),
    "ac_sample": (
        c_int32,
        [
            *(c_int32, c_int32, _FLOATS, _DOUBLES, POINTER(AcSampling)),
            *(_INTS, c_int32, _BYTES, POINTER(c_void_p), _LONGS, _FLOATS, c_int32),
        ],
    ),
    "ac_philox_uniform": (None, [c_uint64, c_int32, _LONGS, _INTS, _DOUBLES]),
}


def declare(handle: ctypes.CDLL, functions: Mapping[str, tuple[Any, list[Any]]] = FUNCTIONS) -> None:
    """Set the types of ``functions`` of a loaded library; AttributeError names a missing one."""
    for name, (result, arguments) in functions.items():
        function = getattr(handle, name)
        function.restype, function.argtypes = result, arguments


def check(handle: ctypes.CDLL, status: int) -> int:
    """Return ``status``; for an error code raise NotFiniteError, MemoryError or RuntimeError with its message."""
    if status >= 0:
        return status
    sentence = handle.ac_last_error().decode()
    if status == _NOT_FINITE:
        raise NotFiniteError(sentence)
    if status == _NO_MEMORY:
        raise MemoryError(sentence)
    raise RuntimeError(f"the kernels refused a call: {sentence}")
