"""The few names of Paddle that the fused engines use, made of torch: for machines with a GPU and without Paddle.

So ``alignment.generation`` runs there as it is; what it asks of Paddle (memory, stream, device) torch answers.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

import torch


class _Unused(ModuleType):
    """A module of Paddle of which only names are taken, in classes that are never used."""

    __path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


class _Finder(MetaPathFinder, Loader):
    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(name, self) if name.startswith("paddle.") else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Unused(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


_current = {"device": "cpu"}


def install(device: str) -> None:
    """Let torch stand in for Paddle on ``device``: ``cpu``, or ``gpu:0``, torch's current device."""
    assert "paddle" not in sys.modules, "Paddle itself is imported"
    _current["device"] = device
    made = _Unused("paddle")
    made.__spec__ = ModuleSpec("paddle", None)
    made.float32, made.bfloat16, made.Tensor, made.no_grad = torch.float32, torch.bfloat16, torch.Tensor, torch.no_grad
    made.empty = lambda shape, dtype, device: torch.empty(
        shape, dtype=getattr(torch, dtype), device=device.replace("gpu", "cuda")
    )
    made.device = SimpleNamespace(get_device=lambda: _current["device"], current_stream=_stream, cuda=torch.cuda)
    made.version = SimpleNamespace(cuda=lambda: str(torch.version.cuda))
    torch.Tensor.place = property(_place)
    sys.modules["paddle"] = made
    sys.meta_path.append(_Finder())


@contextmanager
def on_cpu() -> Iterator[None]:
    """Say that Paddle's device is the CPU, as the CPU's kernels demand."""
    device, _current["device"] = _current["device"], "cpu"
    try:
        yield
    finally:
        _current["device"] = device


def _stream() -> SimpleNamespace:
    return SimpleNamespace(stream_base=SimpleNamespace(raw_stream=torch.cuda.current_stream().cuda_stream))


def _place(tensor: torch.Tensor) -> SimpleNamespace:
    return SimpleNamespace(is_gpu_place=lambda: tensor.is_cuda, gpu_device_id=lambda: tensor.device.index)
