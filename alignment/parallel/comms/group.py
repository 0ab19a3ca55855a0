"""Groups of processes: all communication goes through a ``Group``, which counts and guards it, on CPU and GPU alike.

In a group of one process every operation returns its argument.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import paddle
import paddle.distributed as dist
from paddle.base import core

from alignment.parallel.comms.gloo import PairGroups
from alignment.parallel.comms.guard import Guard
from alignment.parallel.comms.traffic import Traffic


class Group:
    """The processes of one axis of the layout."""

    def __init__(
        self,
        name: str,
        ranks: Sequence[int] = (0,),
        *,
        rank: int = 0,
        handle: Any = None,
        link: Link | None = None,
    ) -> None:
        """``ranks`` are the members' world ranks in order, ``rank`` is this process's, ``handle`` is Paddle's group."""
        self.name = name
        self.ranks = tuple(ranks)
        self.index = self.ranks.index(rank)
        self._handle = handle
        self._link = link

    @property
    def size(self) -> int:
        return len(self.ranks)

    @property
    def is_first(self) -> bool:
        return self.index == 0

    @property
    def is_last(self) -> bool:
        return self.index == self.size - 1

    def sum_(self, tensor: paddle.Tensor, what: str = "") -> paddle.Tensor:
        """Sum ``tensor`` over the group, in place."""
        return self._reduce(tensor, dist.ReduceOp.SUM, what)

    def max_(self, tensor: paddle.Tensor, what: str = "") -> paddle.Tensor:
        """Take the elementwise maximum of ``tensor`` over the group, in place."""
        return self._reduce(tensor, dist.ReduceOp.MAX, what)

    def gather(self, tensor: paddle.Tensor, what: str = "") -> list[paddle.Tensor]:
        """Return the ``tensor`` of every member in group order; all must have the same shape."""
        if self.size == 1:
            return [tensor]
        parts: list[paddle.Tensor] = [paddle.empty_like(tensor) for _ in self.ranks]
        source = tensor.detach().contiguous()
        self._run("all_gather", what, _bytes(tensor) * (self.size - 1), dist.all_gather, parts, source)
        return parts

    def reduce_scatter(self, tensor: paddle.Tensor, what: str = "") -> paddle.Tensor:
        """Return this process's part [...] of the sum of ``tensor`` [size, ...] over the group."""
        if self.size == 1:
            return tensor[0]
        # gloo has no reduce_scatter; all_reduce sends twice the bytes.
        if self._link.is_gloo:
            return self.sum_(tensor.clone(), what)[self.index].clone()
        return self.start_reduce_scatter(tensor, what)()

    def start_reduce_scatter(self, tensor: paddle.Tensor, what: str = "") -> Callable[[], paddle.Tensor]:
        """Start ``reduce_scatter`` and return a function that waits for the part; on a CPU this completes at once."""
        if self.size == 1 or self._link.is_gloo:
            part = self.reduce_scatter(tensor, what)
            return lambda: part
        part, pieces = paddle.empty(tensor.shape[1:], tensor.dtype), list(tensor.detach().contiguous())
        size = _bytes(tensor) * (self.size - 1) // self.size
        task = self._run("reduce_scatter", what, size, partial(dist.reduce_scatter, sync_op=False), part, pieces)
        return lambda: (task.wait(), part)[1]

    def broadcast_(self, tensor: paddle.Tensor, source: int, what: str = "") -> paddle.Tensor:
        """Overwrite ``tensor`` with that of the member ``source`` (an index in the group)."""
        if self.size > 1:
            sent = _bytes(tensor) * (self.size - 1) if source == self.index else 0
            self._run("broadcast", what, sent, dist.broadcast, tensor, self.ranks[source])
        return tensor

    def gather_objects(self, value: Any, what: str = "") -> list[Any]:
        """Return the picklable ``value`` of every member in group order."""
        if self.size == 1:
            return [value]
        values: list[Any] = []
        sent = len(pickle.dumps(value)) * (self.size - 1)
        self._run("gather_objects", what, sent, dist.all_gather_object, values, value)
        return values

    def share_object(self, value: Any, source: int, what: str = "") -> Any:
        """Return the ``value`` of the member ``source``."""
        return self.gather_objects(value if source == self.index else None, what)[source]

    def barrier(self, what: str = "") -> None:
        """Wait until every member has called this."""
        self.sum_(paddle.zeros([1]), what or "barrier")

    def send(self, tensor: paddle.Tensor, target: int, what: str = "") -> None:
        """Send ``tensor`` to the member ``target``."""
        self._link.send(tensor, self.ranks[target], f"{self.name}{_note(what)}")

    def receive(self, shape: Sequence[int], dtype: Any, source: int, what: str = "") -> paddle.Tensor:
        """Return the tensor that the member ``source`` sends."""
        return self._link.receive(shape, dtype, self.ranks[source], f"{self.name}{_note(what)}")

    def _reduce(self, tensor: paddle.Tensor, operation: Any, what: str) -> paddle.Tensor:
        if self.size > 1:
            # A ring all-reduce sends every byte twice, except this process's own share.
            sent = 2 * _bytes(tensor) * (self.size - 1) // self.size
            self._run("all_reduce", what, sent, dist.all_reduce, tensor, operation)
        return tensor

    def _run(self, name: str, what: str, num_bytes: int, call: Callable, *arguments: Any) -> Any:
        ranks = ", ".join(map(str, self.ranks))
        with self._link.guard.during(f"{name} over ranks {ranks}{_note(what)}") as operation, paddle.no_grad():
            operation.task = self._link.queued(call(*arguments, group=self._handle))
        self._link.traffic.add(self.name, name, num_bytes)
        return operation.task


class Link:
    """What all groups of a process share: the kind of transport, point-to-point messages, traffic counts and guard."""

    def __init__(self, *, is_gloo: bool, pairs: PairGroups | None, guard: Guard, traffic: Traffic) -> None:
        self.is_gloo = is_gloo
        self.guard = guard
        self.traffic = traffic
        self._pairs = pairs

    def send(self, tensor: paddle.Tensor, peer: int, what: str) -> None:
        """Send ``tensor`` to the world rank ``peer``; on a CPU this waits until it is received."""
        with self.guard.during(f"send to rank {peer} ({what})") as operation, paddle.no_grad():
            source = tensor.detach().contiguous()
            if self._pairs is not None:
                self._pairs.send(source, peer)
            else:
                operation.task = self.queued(dist.send(source, peer))
        self.traffic.add(what.partition(" ")[0], "send", _bytes(tensor))

    def receive(self, shape: Sequence[int], dtype: Any, peer: int, what: str) -> paddle.Tensor:
        """Return the tensor of ``shape`` that the world rank ``peer`` sends."""
        tensor = paddle.empty(list(shape), dtype)
        with self.guard.during(f"receive from rank {peer} ({what})") as operation, paddle.no_grad():
            if self._pairs is not None:
                self._pairs.receive(tensor, peer)
            else:
                operation.task = self.queued(dist.recv(tensor, peer))
        return tensor

    def queued(self, task: Any) -> Any:
        """Return a task if the call only queued the operation (on a GPU), None if it is done (on a CPU)."""
        return None if self.is_gloo or task is None else _QueuedTask(task, paddle.device.get_device())


class _QueuedTask:
    """A task of the transport that any thread may ask about.

    A new thread uses the first GPU of the machine, where even a question would open a context.
    """

    def __init__(self, task: Any, device: str) -> None:
        self.wait = task.wait
        self._task, self._device = task, device

    def is_completed(self) -> bool:
        """See ``Task.is_completed``."""
        kind, _, index = self._device.partition(":")
        if kind == "gpu":
            core.set_cuda_current_device_id(int(index))
        return self._task.is_completed()


ALONE = Group("alone")
"""The group of a single process."""


def _bytes(tensor: paddle.Tensor) -> int:
    return int(tensor.size) * tensor.element_size()


def _note(what: str) -> str:
    return f" ({what})" if what else ""
