"""Paddle's memory and stream on the current device, for the CUDA library; what only a GPU can test is in this module.

The library gets addresses of Paddle's tensors and Paddle's current stream, so its work is ordered with Paddle's, also
on memory that Paddle frees and reuses. With the emulated library tensors are in host memory and the stream is 0.
"""

from __future__ import annotations

import math

import numpy as np
import paddle

from alignment.ops.native.cuda.library import CudaLibrary

_ALIGNMENT = 16
"""Bytes to which arrays of a packet are aligned."""
LEAST_CAPABILITY = (8, 0)
"""bfloat16 in hardware; the library has code for this and above."""


def device_obstacle(library: CudaLibrary) -> str | None:
    """Return in one line why ``library`` cannot run on Paddle's current device, None if it can."""
    device = paddle.device.get_device()
    if library.is_emulated:
        return None if device == "cpu" else f"the emulated CUDA kernels run on cpu, the device is {device}"
    if not device.startswith("gpu:"):
        return f"the CUDA kernels run on a GPU, the device is {device}"
    if paddle.version.cuda() == "False":
        return "the CUDA kernels need a Paddle that was built for CUDA"
    capability = tuple(paddle.device.cuda.get_device_capability())
    if capability < LEAST_CAPABILITY:
        found, least = (".".join(map(str, version)) for version in (capability, LEAST_CAPABILITY))
        return f"the CUDA kernels need compute capability {least}, {device} has {found}"
    return None


class PaddleDevice:
    """Memory and stream of the current device, for calls of ``library``."""

    def __init__(self, library: CudaLibrary) -> None:
        self.library = library
        self._on_host = library.is_emulated
        self._index = 0 if self._on_host else int(paddle.device.get_device().partition(":")[2])
        self._name = "cpu" if self._on_host else f"gpu:{self._index}"
        library.call("acu_use_device", self._index)

    @property
    def stream(self) -> int:
        """The stream that Paddle's operators use now."""
        return 0 if self._on_host else paddle.device.current_stream().stream_base.raw_stream

    def call(self, name: str, *arguments: object) -> None:
        """Call a function of the library that enqueues work on the stream."""
        self.library.call(name, *arguments, self.stream)

    def empty(self, shape: list[int], dtype: str) -> paddle.Tensor:
        """Return an uninitialised tensor on the device."""
        return paddle.empty(shape, dtype, device=self._name)

    def bring(self, tensor: paddle.Tensor) -> paddle.Tensor:
        """Return ``tensor`` on the device: itself if it is there, else a copy."""
        if self._on_host:
            return tensor.detach().cpu()
        there = tensor.place.is_gpu_place() and tensor.place.gpu_device_id() == self._index
        return tensor.detach() if there else tensor.detach().cuda(self._index)

    def put(self, array: np.ndarray) -> paddle.Tensor:
        """Return a copy of the bytes of ``array`` on the device."""
        made = self.empty([max(1, array.nbytes)], "uint8")
        self.write(made.data_ptr(), array)
        return made

    def write(self, address: int, array: np.ndarray) -> None:
        """Copy the contiguous ``array`` to ``address`` on the device; ``array`` may be modified afterwards."""
        assert array.flags.c_contiguous
        self.call("acu_write", address, array.ctypes.data, array.nbytes)

    def read(self, address: int, array: np.ndarray) -> None:
        """Fill the contiguous ``array`` from ``address`` on the device, after all earlier work."""
        assert array.flags.c_contiguous
        self.call("acu_read", array.ctypes.data, address, array.nbytes)

    def make_room(self) -> None:
        """Return memory that Paddle caches to the device, so that the library can allocate it."""
        if not self._on_host:
            paddle.device.cuda.empty_cache()


class Packet:
    """Host arrays that are copied to the device, or back, in one transfer of at most ``capacity`` bytes."""

    def __init__(self, device: PaddleDevice, capacity: int) -> None:
        self._device = device
        self._memory = device.empty([capacity], "uint8")
        self._host = np.zeros(capacity, np.uint8)
        self._end = 0

    def begin(self) -> None:
        """Remove all arrays."""
        self._end = 0

    def add(self, shape: tuple[int, ...], dtype: type) -> tuple[np.ndarray, int]:
        """Return a new array on the host and its address on the device."""
        start = -(-self._end // _ALIGNMENT) * _ALIGNMENT
        self._end = start + math.prod(shape) * np.dtype(dtype).itemsize
        assert self._end <= len(self._host), "the packet is full"
        return self._host[start : self._end].view(dtype).reshape(shape), self._memory.data_ptr() + start

    def send(self) -> None:
        """Copy all arrays to the device."""
        self._device.write(self._memory.data_ptr(), self._host[: self._end])

    def fetch(self) -> None:
        """Copy all arrays from the device."""
        self._device.read(self._memory.data_ptr(), self._host[: self._end])
