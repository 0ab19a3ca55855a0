"""Products of bfloat16 with float32 sums, as ``float32_matmul_precision=medium`` asks of oneDNN, on any CPU."""

from __future__ import annotations

from typing import Any

import paddle

from alignment.ops import onednn
from alignment.parity import trajectory


def matmul(
    x: paddle.Tensor, y: paddle.Tensor, *, transpose_x: bool = False, transpose_y: bool = False
) -> paddle.Tensor:
    """Return what ``onednn.matmul`` returns."""
    x, y = (operand.astype("float32") for operand in (x, y))
    return paddle.matmul(x, y, transpose_x=transpose_x, transpose_y=transpose_y)


def train_all(*jobs: Any) -> Any:
    """See ``alignment.parity.trajectory.train_all``."""
    onednn.matmul = matmul
    return trajectory.train_all(*jobs)
