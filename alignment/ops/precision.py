"""The precision in which operators compute."""

from __future__ import annotations

import paddle

HALF = (paddle.float16, paddle.bfloat16)


def widen(x: paddle.Tensor) -> paddle.Tensor:
    """Return ``x`` in float32 if it is half precision, else ``x`` itself."""
    return x.astype("float32") if is_half(x) else x


def is_half(x: paddle.Tensor) -> bool:
    """Return whether ``x`` is float16 or bfloat16."""
    return x.dtype in HALF


def scale_by(x: paddle.Tensor, factor: float) -> paddle.Tensor:
    """Return ``x`` times ``factor``; ``x`` itself if that is 1."""
    return x if factor == 1.0 else x.scale(factor)
