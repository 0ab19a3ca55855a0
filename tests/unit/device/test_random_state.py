"""Random generators come back in the next process, whatever devices that one sees."""

from __future__ import annotations

import json
import random
from types import SimpleNamespace

import numpy as np
import paddle
import pytest

from alignment.device import random_state as module
from alignment.device.random_state import random_state, restore_random_state
from alignment.parallel.initialise import seed_everything


def draws() -> list[float]:
    return [random.random(), float(np.random.rand()), paddle.rand([1]).item()]


def test_every_generator_goes_on_where_it_was():
    seed_everything(5)
    draws()
    saved = json.loads(json.dumps(random_state()))
    expected = draws()
    seed_everything(6)
    assert restore_random_state(saved) is None
    assert draws() == expected


class FakeState:
    def __init__(self, values: tuple) -> None:
        self.values = values

    def __getstate__(self) -> tuple:
        return self.values

    def __setstate__(self, values: tuple) -> None:
        self.values = values


class FakeGenerator:
    """Paddle's generator of one GPU."""

    def __init__(self, device: int) -> None:
        self.values = (device, 7, 0, [])

    def get_state(self) -> FakeState:
        return FakeState(self.values)

    def set_state(self, state: FakeState) -> None:
        self.values = state.values


@pytest.fixture
def gpus(monkeypatch) -> list[FakeGenerator]:
    """Eight GPUs, of which this process has the fourth."""
    generators = [FakeGenerator(index) for index in range(8)]
    place = SimpleNamespace(is_gpu_place=lambda: True, get_device_id=lambda: 3)
    monkeypatch.setattr(paddle.framework, "_current_expected_place_", lambda: place)
    monkeypatch.setattr(module.core, "default_cuda_generator", generators.__getitem__)
    monkeypatch.setattr(module.core, "GeneratorState", FakeState)
    return generators


def test_of_several_gpus_only_the_current_one_has_a_state(gpus):
    gpus[3].values = (3, 42, 128, [])
    assert random_state()["paddle"] == [[3, 42, 128, []]]


def test_a_state_goes_to_another_gpu_than_it_came_from(gpus):
    assert restore_random_state({**random_state(), "paddle": [[0, 42, 128, []]]}) is None
    assert gpus[3].values == (3, 42, 128, [])
    assert [gpu.values[1] for gpu in gpus] == [7, 7, 7, 42, 7, 7, 7, 7]


def test_a_state_of_every_visible_gpu_is_read_too(gpus):
    assert restore_random_state({**random_state(), "paddle": [[i, 40 + i, 0, []] for i in range(2)]}) is None
    assert gpus[3].values == (3, 40, 0, [])


def test_between_a_gpu_and_a_cpu_paddles_generator_keeps_its_seed_and_the_others_are_restored():
    saved = {**random_state(), "paddle": [[0, 42, 128, []]]}
    expected = draws()[:2]
    seed_everything(6)
    before = paddle.get_rng_state()[0].__getstate__()
    assert restore_random_state(saved) == (
        "Paddle's generator continues from the seed: the checkpoint was written on another kind of device"
    )
    assert paddle.get_rng_state()[0].__getstate__() == before
    assert draws()[:2] == expected
