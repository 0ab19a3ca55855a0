"""The global norm of gradients, and by how much they are scaled to a limit.

Compiled kernels add exact squares in float64, so that the norm, which is rounded to float32, is the same for every
number of threads and wherever the tensors are cut.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np
import paddle

from alignment.ops.native import update_ops
from alignment.ops.native.selection import native_ops_enabled, runs_natively
from alignment.parallel.sharding.copies import sum_of_squares


def gradient_norm(parameters: Mapping[str, paddle.Tensor]) -> float:
    """Return the L2 norm of all gradients together; 0 without any."""
    gradients = [p.grad for p in parameters.values() if p.grad is not None]
    if not gradients:
        return 0.0
    if runs_natively(*gradients):
        return norm_of_squares(_sum_natively(gradients), parameters)
    return float(paddle.add_n([g.astype("float32").square().sum() for g in gradients]).sqrt())


@paddle.no_grad()
def sum_gradient_squares(gradients: Iterable[paddle.Tensor]) -> paddle.Tensor:
    """Return the sum of the squares of all elements as float64 [1]."""
    gradients = list(gradients)
    if native_ops_enabled() and runs_natively(*gradients):
        return paddle.to_tensor([_sum_natively(gradients)], "float64")
    return sum_of_squares(gradients)


def norm_of_squares(squares: float, parameters: Mapping[str, paddle.Tensor]) -> float:
    """Return the root of the sum of squares of the gradients of a model with ``parameters``.

    That of float32 gradients is rounded to float32: what another cut into parts changes is far below that.
    """
    is_double = any(p.dtype == paddle.float64 for p in parameters.values())
    return math.sqrt(squares) if is_double else float(np.float32(math.sqrt(squares)))


def clip_factor(norm: float, max_norm: float) -> float:
    """Return the factor that brings gradients of global L2 norm ``norm`` to at most ``max_norm`` (0: no limit)."""
    return max_norm / (norm + 1e-6) if 0 < max_norm < norm else 1.0


def _sum_natively(gradients: list[paddle.Tensor]) -> float:
    sums = update_ops.sums_of_squares([g if g.is_contiguous() else g.contiguous() for g in gradients])
    # fsum would raise for infinities of both signs; squares have one sign.
    return math.fsum(sums) if np.isfinite(sums).all() else float(sums.sum())
