"""Which type an operator computes in."""

from __future__ import annotations

import paddle

_HALF = (paddle.float16, paddle.bfloat16)


def widen(x: paddle.Tensor) -> paddle.Tensor:
    """Return ``x`` in float32 when it is half precision, else ``x`` itself."""
    return x.astype("float32") if is_half(x) else x


def is_half(x: paddle.Tensor) -> bool:
    """True for float16 and bfloat16."""
    return x.dtype in _HALF
