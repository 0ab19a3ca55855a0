"""Which device a process computes on, and what is asked of the machine for it."""

from __future__ import annotations

import os

import paddle
import pytest
from paddle.base import core

from alignment.errors import UserError
from alignment.parallel.initialise import select_device


@pytest.fixture
def selected(monkeypatch) -> list[str]:
    """A GPU build that sees four GPUs; what is selected there comes back."""
    names: list[str] = []
    monkeypatch.setattr(paddle, "is_compiled_with_cuda", lambda: True)
    monkeypatch.setattr(paddle.device.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(paddle, "set_device", names.append)
    return names


def test_the_cpu_is_selected_without_asking_for_a_gpu(selected, monkeypatch):
    monkeypatch.setattr(paddle.device.cuda, "device_count", lambda: pytest.fail("a GPU was asked for"))
    assert select_device("cpu") == "cpu" and selected == ["cpu"]


@pytest.mark.parametrize(
    ("device", "share", "name"),
    [
        (None, False, "gpu"),
        ("gpu", False, "gpu"),
        ("gpu:2", True, "gpu:2"),
        ("gpu", True, "gpu:1"),
        (None, True, "gpu:1"),
    ],
)
def test_a_process_takes_the_gpu_that_the_launcher_gave_it(device, share, name, selected, monkeypatch):
    monkeypatch.setenv("FLAGS_selected_gpus", "1,3")
    assert select_device(device, share=share) == "gpu" and selected == [name]


def test_without_a_gpu_null_is_the_cpu_and_gpu_is_refused(selected, monkeypatch):
    monkeypatch.setattr(paddle.device.cuda, "device_count", lambda: 0)
    assert select_device(None) == "cpu" and selected == ["cpu"]
    with pytest.raises(UserError, match="device='gpu', but this Paddle sees no GPU; use device=cpu"):
        select_device("gpu")


@pytest.mark.parametrize(
    ("device", "deterministic", "flags"),
    [
        ("gpu", True, [{"FLAGS_cudnn_deterministic": True, "FLAGS_embedding_deterministic": 1}]),
        ("gpu", False, []),
        ("cpu", True, []),
    ],
)
def test_deterministic_sets_the_flags_of_a_gpu_before_it_is_selected(
    device, deterministic, flags, selected, monkeypatch
):
    set_flags = []
    monkeypatch.setattr(paddle, "set_flags", lambda given: set_flags.append((given, list(selected))))
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    monkeypatch.setenv("NCCL_NVLS_ENABLE", "")
    monkeypatch.delenv("NCCL_NVLS_ENABLE")
    select_device(device, deterministic=deterministic)
    assert set_flags == [(given, []) for given in flags]
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"
    assert os.environ.get("NCCL_NVLS_ENABLE") == ("0" if flags else None)
    assert selected == [device]


def test_tf32_is_off_on_a_gpu(selected):
    core.set_cublas_switch(True)
    core.set_cudnn_switch(True)
    assert select_device("gpu") == "gpu"
    assert not core.get_cublas_switch() and not core.get_cudnn_switch()
