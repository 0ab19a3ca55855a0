"""Call csrc/core/alignment_training.h on Paddle's float32 CPU tensors, in place."""

from __future__ import annotations

import ctypes
import functools
import math
from collections.abc import Sequence
from ctypes import c_float, c_int32, c_int64, c_void_p
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import paddle
from paddle import _C_ops

from alignment.ops.native.bindings import check, declare
from alignment.ops.native.library import load_core


class _AcSequences(ctypes.Structure):
    _fields_ = [
        *((name, c_int32) for name in ("struct_bytes", "num_sequences", "heads", "kv_heads", "head_dim", "window")),
        *((name, c_void_p) for name in ("starts", "cosines", "sines", "first_queries", "query_starts", "shared")),
        ("cap", c_float),
    ]


class _AcLogits(ctypes.Structure):
    _fields_ = [
        ("struct_bytes", c_int32),
        ("vocab", c_int32),
        ("rows", c_int64),
        ("logits", c_void_p),
        ("targets", c_void_p),
        ("temperature", c_float),
    ]


_AT = c_void_p
_ARGUMENTS = {
    "ac_rms_norm_forward": [c_int64, c_int32, _AT, _AT, c_float, _AT, _AT, c_int32],
    "ac_rms_norm_backward": [c_int64, c_int32, *[_AT] * 6, c_int32],
    "ac_swiglu_forward": [c_int64, *[_AT] * 3, c_int32],
    "ac_swiglu_backward": [c_int64, *[_AT] * 5, c_int32],
    "ac_attention_forward": [ctypes.POINTER(_AcSequences), *[_AT] * 5, c_int32],
    "ac_attention_backward": [ctypes.POINTER(_AcSequences), *[_AT] * 9, c_int32],
    "ac_logprobs_forward": [ctypes.POINTER(_AcLogits), *[_AT] * 3, c_int32],
    "ac_logprobs_backward": [ctypes.POINTER(_AcLogits), *[_AT] * 5, c_int32],
}


class QueryRanges(NamedTuple):
    """The tokens of n packed sequences whose attention is wanted: a range of each. Q tokens in all."""

    firsts: np.ndarray
    """[n] int32: the position of the first one in its sequence."""
    starts: np.ndarray
    """[n + 1] int32: its place among the Q, then Q."""

    def rows(self, origins: np.ndarray) -> np.ndarray:
        """Return the place [Q] int64 of each among all tokens; ``origins`` [n] are the places of each position 0."""
        counts = np.diff(self.starts)
        shifts = origins + self.firsts - self.starts[:-1]
        return np.arange(self.starts[-1], dtype=np.int64) + np.repeat(shifts, counts)


@dataclass(frozen=True)
class RaggedHeads:
    """Sequences packed without padding, and the heads of their attention."""

    starts: np.ndarray
    """[n + 1] int32: the first own token of each sequence, then the number of tokens M."""
    num_heads: int
    num_kv_heads: int
    window: int | None
    """How many tokens a query sees, itself included; None: all before it."""
    rotation: np.ndarray | None = None
    """Cosines and sines [2, M, D / 2] float32 to rotate queries and keys; None: they are rotated already."""
    queries: QueryRanges | None = None
    """Which tokens are queries; None: all, Q = M."""
    shared: np.ndarray | None = None
    """[n] int32: how many leading tokens each sequence shares with the one before it; None: none."""
    cap: float = 0.0
    """Scores x become cap tanh(x / cap); 0: they stay."""

    @property
    def origins(self) -> np.ndarray:
        """[n] int64: the place of each sequence's position 0, as ``QueryRanges.rows`` needs it."""
        return self.starts[:-1].astype(np.int64) - (0 if self.shared is None else self.shared)

    @property
    def num_queries(self) -> int:
        """The number of tokens that are queries, Q."""
        return int((self.queries or self).starts[-1])

    @classmethod
    def build(
        cls,
        lengths: np.ndarray,
        *,
        num_heads: int,
        num_kv_heads: int,
        window: int | None,
        rotation: np.ndarray | None = None,
        shared: np.ndarray | None = None,
        cap: float = 0.0,
    ) -> RaggedHeads:
        """Build for sequences of ``lengths`` [n] tokens, the first ``shared`` [n] being those of the one before."""
        own = lengths if shared is None else lengths - shared
        starts = np.concatenate([[0], np.cumsum(own)]).astype(np.int32)
        shared = None if shared is None else shared.astype(np.int32)
        return cls(starts, num_heads, num_kv_heads, window, rotation, shared=shared, cap=cap)

    def pack(self, head_dim: int) -> _AcSequences:
        """Return the structure of the C interface, which points into these arrays."""
        if self.rotation is not None:
            assert self.rotation.shape == (2, self.starts[-1], head_dim // 2)
            assert self.rotation.dtype == np.float32 and self.rotation.flags.c_contiguous
        return _AcSequences(
            struct_bytes=ctypes.sizeof(_AcSequences),
            num_sequences=len(self.starts) - 1,
            heads=self.num_heads,
            kv_heads=self.num_kv_heads,
            head_dim=head_dim,
            window=self.window or 0,
            cap=self.cap,
            **self._addresses,
        )

    @functools.cached_property
    def _addresses(self) -> dict[str, int]:
        """The addresses of the arrays by field of the structure; looking them up takes longer than filling it."""
        arrays = {"starts": self.starts}
        if self.rotation is not None:
            arrays |= {"cosines": self.rotation[0], "sines": self.rotation[1]}
        if self.queries is not None:
            arrays |= {"first_queries": self.queries.firsts, "query_starts": self.queries.starts}
        if self.shared is not None:
            arrays["shared"] = self.shared
        return {name: array.ctypes.data for name, array in arrays.items()}


class Logprobs(NamedTuple):
    """Results per row of logits."""

    logprobs: paddle.Tensor
    """[T], of the targets."""
    entropies: paddle.Tensor
    """[T], in nats."""
    statistics: paddle.Tensor
    """[T, 2]: the largest logit, and log sum e^((logit - largest) / temperature)."""

    @property
    def for_backward(self) -> tuple[paddle.Tensor, paddle.Tensor]:
        """What ``logprobs_grad`` needs, detached: an output saved with its graph would keep itself alive."""
        return self.entropies.detach(), self.statistics


def rms_norm(x: paddle.Tensor, weight: paddle.Tensor, eps: float) -> tuple[paddle.Tensor, paddle.Tensor]:
    """Return (normalised rows [N, H], scales [N]) of x [N, H] and weight [H]."""
    x, weight = _dense(x), _dense(weight)
    y, scales = _empty(x.shape), _empty(x.shape[:1])
    _call("ac_rms_norm_forward", *x.shape, *_at(x, weight), eps, *_at(y, scales))
    return y, scales


def rms_norm_grad(
    grad: paddle.Tensor, x: paddle.Tensor, weight: paddle.Tensor, scales: paddle.Tensor
) -> tuple[paddle.Tensor, paddle.Tensor]:
    """Return the gradients of x [N, H] and of weight [H]."""
    grad, x, weight = _dense(grad), _dense(x), _dense(weight)
    x_grad, weight_grad = _empty(x.shape), _empty(weight.shape)
    _call("ac_rms_norm_backward", *x.shape, *_at(grad, x, weight, scales, x_grad, weight_grad))
    return x_grad, weight_grad


def swiglu(gate: paddle.Tensor, up: paddle.Tensor) -> paddle.Tensor:
    """Return silu(gate) * up of two tensors of the same shape."""
    gate, up = _dense(gate), _dense(up)
    assert gate.shape == up.shape
    y = _empty(gate.shape)
    _call("ac_swiglu_forward", math.prod(gate.shape), *_at(gate, up, y))
    return y


def swiglu_grad(grad: paddle.Tensor, gate: paddle.Tensor, up: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
    """Return the gradients of gate and up."""
    grad, gate, up = _dense(grad), _dense(gate), _dense(up)
    gate_grad, up_grad = _empty(gate.shape), _empty(up.shape)
    _call("ac_swiglu_backward", math.prod(gate.shape), *_at(grad, gate, up, gate_grad, up_grad))
    return gate_grad, up_grad


def attention(
    q: paddle.Tensor, k: paddle.Tensor, v: paddle.Tensor, heads: RaggedHeads
) -> tuple[paddle.Tensor, paddle.Tensor]:
    """Return (out [Q, heads * D], statistics [Q, heads, 2]) of q [Q, heads * D], k and v [M, kv_heads * D]."""
    q, k, v = _dense(q), _dense(k), _dense(v)
    dim = q.shape[1] // heads.num_heads
    assert q.shape == [heads.num_queries, heads.num_heads * dim]
    assert k.shape == v.shape == [heads.starts[-1], heads.num_kv_heads * dim]
    out, statistics = _empty(q.shape), _empty([q.shape[0], heads.num_heads, 2])
    _call("ac_attention_forward", heads.pack(dim), *_at(q, k, v, out, statistics))
    return out, statistics


def attention_grad(
    grad: paddle.Tensor, inputs: Sequence[paddle.Tensor], results: Sequence[paddle.Tensor], heads: RaggedHeads
) -> tuple[paddle.Tensor, paddle.Tensor, paddle.Tensor]:
    """Return the gradients of ``inputs`` (q, k, v); ``results`` are what ``attention`` returned for them."""
    grad, inputs = _dense(grad), tuple(_dense(x) for x in inputs)
    gradients = tuple(_empty(x.shape) for x in inputs)
    dim = grad.shape[1] // heads.num_heads
    _call("ac_attention_backward", heads.pack(dim), *_at(grad, *inputs, *results, *gradients))
    return gradients


def logprobs(logits: paddle.Tensor, targets: paddle.Tensor | None, temperature: float) -> Logprobs:
    """Return log-probs of ``targets`` [T] int64 and entropies under softmax(logits / temperature), logits [T, V].

    Without ``targets`` the log-probs are undefined. RuntimeError names a target outside the vocabulary.
    """
    logits, targets = _dense(logits), None if targets is None else _dense(targets)
    rows = logits.shape[0]
    found = Logprobs(*(_empty(shape) for shape in ([rows], [rows], [rows, 2])))
    _call("ac_logprobs_forward", _pack_logits(logits, targets, temperature), *_at(*found))
    return found


def logprobs_grad(
    logits: paddle.Tensor,
    targets: paddle.Tensor | None,
    temperature: float,
    *,
    kept: Sequence[paddle.Tensor],
    grads: Sequence[paddle.Tensor | None],
    in_place: bool = False,
) -> paddle.Tensor:
    """Return the gradient [T, V] of the logits, given ``grads`` of (log-probs, entropies), each [T] or None.

    ``kept`` is ``Logprobs.for_backward``. ``in_place`` overwrites the logits.
    """
    assert not in_place or logits.is_contiguous()
    logits, targets = _dense(logits), None if targets is None else _dense(targets)
    grads = [None if grad is None else _dense(grad) for grad in grads]
    logit_grad = logits if in_place else _empty(logits.shape)
    arguments = _at(*kept, *grads, logit_grad)
    _call("ac_logprobs_backward", _pack_logits(logits, targets, temperature), *arguments)
    return logit_grad


_FLOAT, _CPU = paddle.float32, paddle.CPUPlace()


@functools.cache
def _kernels() -> ctypes.CDLL:
    core = load_core()
    assert core is not None, "there is no kernel library; ask selection.native_ops_enabled first"
    handle = ctypes.CDLL(str(core.path))
    declare(handle)
    for name, arguments in _ARGUMENTS.items():
        function = getattr(handle, name)
        function.restype, function.argtypes = c_int32, arguments
    return handle


def _call(name: str, *arguments) -> None:
    """Run a kernel with OpenMP's number of threads."""
    handle = _kernels()
    check(handle, getattr(handle, name)(*arguments, 0))


def _dense(x: paddle.Tensor) -> paddle.Tensor:
    return x if x.is_contiguous() else x.contiguous()


def _empty(shape: list[int]) -> paddle.Tensor:
    # paddle.empty takes four times as long to check its arguments: 3 % of a small model's training step.
    return _C_ops.empty(shape, _FLOAT, _CPU)


def _at(*tensors: paddle.Tensor | None) -> list[int | None]:
    return [None if x is None else x.data_ptr() for x in tensors]


def _pack_logits(logits: paddle.Tensor, targets: paddle.Tensor | None, temperature: float) -> _AcLogits:
    assert targets is None or (targets.dtype == paddle.int64 and targets.shape == logits.shape[:1])
    rows, vocab = logits.shape
    return _AcLogits(ctypes.sizeof(_AcLogits), vocab, rows, logits.data_ptr(), *_at(targets), temperature)
