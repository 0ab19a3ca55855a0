"""Random batches with ragged masks, in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
import pytest

LENGTHS = np.array([7, 5, 1, 4, 0, 6])
WIDTH = 7


@pytest.fixture
def mask() -> paddle.Tensor:
    """[6, 7], 1 on real tokens; row 4 has none."""
    return paddle.to_tensor((np.arange(WIDTH) < LENGTHS[:, None]).astype(np.float64))


@pytest.fixture
def grid() -> Callable[..., paddle.Tensor]:
    """``grid(seed)`` gives a random [6, 7] tensor."""

    def draw(seed: int, *, scale: float = 0.5, grad: bool = False) -> paddle.Tensor:
        values = scale * np.random.default_rng(seed).standard_normal((len(LENGTHS), WIDTH))
        return paddle.to_tensor(values, stop_gradient=not grad)

    return draw


@pytest.fixture
def spoil(mask: paddle.Tensor) -> Callable[..., paddle.Tensor]:
    """``spoil(x)`` puts large garbage under the mask."""

    def put(x: paddle.Tensor, *, grad: bool = False) -> paddle.Tensor:
        garbage = 1e6 * np.random.default_rng(99).standard_normal(x.shape)
        return paddle.to_tensor(np.where(mask.numpy() > 0, x.numpy(), garbage), stop_gradient=not grad)

    return put


@pytest.fixture
def same() -> Callable[[Any, Any], None]:
    """Assert equality to 1e-12."""

    def check(actual: Any, expected: Any) -> None:
        np.testing.assert_allclose(np.asarray(actual), np.asarray(expected), rtol=1e-12, atol=1e-12)

    return check
