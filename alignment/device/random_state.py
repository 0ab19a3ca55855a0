"""Save and restore the state of all random generators as JSON values.

Of Paddle's generators only that of the current device is saved. A GPU build has one per visible GPU, which would tie a
checkpoint to their number; and a run uses none of them: weights are drawn by NumPy, tokens by Philox numbers.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import paddle
from paddle.base import core


def random_state() -> dict[str, Any]:
    """Return the state of the Python, NumPy and Paddle generators."""
    version, internal, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "python": [version, list(internal), gauss],
        "numpy": [name, keys.tolist(), position, has_gauss, cached],
        "paddle": [list(_current_generator().get_state().__getstate__())],
    }


def restore_random_state(state: Mapping[str, Any]) -> str | None:
    """Restore the result of ``random_state``; return what could not be restored and why, or None."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, np.array(keys, np.uint32), position, has_gauss, cached))
    generator = _current_generator()
    device, *saved = state["paddle"][0]
    here = generator.get_state().__getstate__()[0]
    if (device < 0) != (here < 0):
        return "Paddle's generator continues from the seed: the checkpoint was written on another kind of device"
    # Created as by unpickling: __setstate__ does not change an initialised state.
    restored = core.GeneratorState.__new__(core.GeneratorState)
    restored.__setstate__((here, *saved))
    generator.set_state(restored)
    return None


def _current_generator() -> core.Generator:
    """Return Paddle's generator of the current device."""
    place = paddle.framework._current_expected_place_()
    return core.default_cuda_generator(place.get_device_id()) if place.is_gpu_place() else core.default_cpu_generator()
