"""Keep tensors in host memory while they are unused.

On a GPU the host copies are pinned, and all copies of a move run concurrently, queued behind the work that uses the
tensors. On a CPU the same moves copy to arrays and back, so that reading an offloaded tensor fails there too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import paddle

NamedTensors = Callable[[], Iterable[tuple[str, paddle.Tensor]]]
"""Returns the current tensors of an owner, like ``named_parameters`` of a model."""


class Offloaded:
    """The tensors of one owner: in host memory, except inside ``resident``."""

    def __init__(self, name: str, named_tensors: NamedTensors) -> None:
        """Move the tensors to host memory; ``name`` (reference, policy optimizer, ...) appears in messages."""
        self.name = name
        self._named_tensors = named_tensors
        self._away: list[tuple[paddle.Tensor, Any]] = []
        self._users = 0
        self._move_out()

    def enter(self) -> None:
        """Move the tensors back to the device; further users share them."""
        if not self._users:
            self._move_in()
        self._users += 1

    def leave(self) -> None:
        """Undo one ``enter``; after the last user the tensors are moved to host memory."""
        assert self._users, f"{self.name} was not entered"
        self._users -= 1
        if not self._users:
            self._move_out()

    def _move_out(self) -> None:
        found = {id(tensor): tensor for _, tensor in self._named_tensors() if tensor._is_initialized() and tensor.size}
        self._away = [(tensor, _to_host(tensor)) for tensor in found.values()]
        _finish_copies(found.values())
        for tensor in found.values():
            tensor._clear_data()

    def _move_in(self) -> None:
        for tensor, host in self._away:
            _to_device(host)._share_buffer_to(tensor)
        # The pinned copies must not be freed before they have been read.
        _finish_copies(tensor for tensor, _ in self._away)
        self._away = []


@contextlib.contextmanager
def resident(*owners: Offloaded | None) -> Iterator[None]:
    """Keep the tensors of ``owners`` on the device in the body; None is an owner that is never offloaded. Nestable."""
    with contextlib.ExitStack() as stack:
        for owner in owners:
            if owner is not None:
                owner.enter()
                stack.callback(owner.leave)
        yield


def _to_host(tensor: paddle.Tensor) -> Any:
    if tensor.place.is_gpu_place():
        return tensor.detach()._copy_to(paddle.CUDAPinnedPlace(), False)
    return np.array(tensor.detach().numpy())


def _to_device(host: Any) -> paddle.Tensor:
    return paddle.to_tensor(host) if isinstance(host, np.ndarray) else host.cuda(blocking=False)


def _finish_copies(tensors: Iterable[paddle.Tensor]) -> None:
    """Wait for copies between host and GPU, if any."""
    if any(tensor.place.is_gpu_place() for tensor in tensors):
        paddle.device.synchronize()
