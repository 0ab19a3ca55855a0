"""The state of every random generator, as JSON values."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import paddle


def random_state() -> dict[str, Any]:
    """Return the state of the Python, NumPy and Paddle generators."""
    version, internal, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "python": [version, list(internal), gauss],
        "numpy": [name, keys.tolist(), position, has_gauss, cached],
        "paddle": [list(generator.__getstate__()) for generator in paddle.get_rng_state()],
    }


def restore_random_state(state: Mapping[str, Any]) -> None:
    """Restore what ``random_state`` returned."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, np.array(keys, np.uint32), position, has_gauss, cached))
    generators = paddle.get_rng_state()
    for generator, saved in zip(generators, state["paddle"], strict=True):
        generator.__setstate__(tuple(saved))
    paddle.set_rng_state(generators)
