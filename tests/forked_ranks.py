"""Processes that talk through pipes: many small worlds in one test, without the seconds a real process group takes."""

from __future__ import annotations

import os
import pickle
import signal
import traceback
from functools import partial
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import paddle

from alignment.errors import UserError
from alignment.parallel.comms.group import Group
from alignment.parallel.comms.guard import CommunicationError
from alignment.parallel.topology import Topology

SECONDS = 60


class PipeGroup(Group):
    """A world whose messages go through pipes; a send waits for its receiver, as gloo's does."""

    def __init__(self, rank: int, pipes: dict[int, Connection]) -> None:
        super().__init__("world", range(len(pipes) + 1), rank=rank)
        self._pipes = pipes

    def gather_objects(self, value: Any, what: str = "") -> list[Any]:
        if self.index == 0:
            values = [value, *(self._take(peer) for peer in self.ranks[1:])]
            for peer in self.ranks[1:]:
                self._give(peer, values)
            return values
        self._give(0, value)
        return self._take(0)

    def send(self, tensor: paddle.Tensor, target: int, what: str = "") -> None:
        self._give(target, tensor.numpy())
        assert self._take(target) == "taken"

    def receive(self, shape, dtype, source: int, what: str = "") -> paddle.Tensor:
        array = self._take(source)
        self._give(source, "taken")
        assert list(array.shape) == list(shape)
        tensor = paddle.to_tensor(array)
        return tensor if array.dtype != np.uint16 else tensor.view("bfloat16")

    def _give(self, peer: int, value: Any) -> None:
        try:
            self._pipes[peer].send(value)
        except OSError as error:
            raise CommunicationError(f"rank {peer} is gone") from error

    def _take(self, peer: int) -> Any:
        if not self._pipes[peer].poll(SECONDS):
            raise CommunicationError(f"rank {peer} says nothing: a deadlock")
        try:
            return self._pipes[peer].recv()
        except (EOFError, OSError) as error:
            raise CommunicationError(f"rank {peer} is gone") from error


def run_forked(function, world_size: int, *arguments: Any) -> list[Any]:
    """Return what ``function(topology, *arguments)`` gave in each process: a value, an exception, None when killed."""
    ends: list[dict[int, Connection]] = [{} for _ in range(world_size)]
    for one in range(world_size):
        for other in range(one):
            ends[one][other], ends[other][one] = Pipe()
    results = [Pipe(duplex=False) for _ in range(world_size)]
    children = [_fork(partial(_call, function, arguments), rank, ends, results) for rank in range(world_size)]
    for end in (end for pipes in ends for end in pipes.values()):
        end.close()
    found = [_read(*result) for result in results]
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return found


def _call(function, arguments: tuple, topology: Topology) -> Any:
    try:
        return function(topology, *arguments)
    except UserError as error:
        return error
    except Exception as error:
        traceback.print_exc()
        return error


def _read(reader: Connection, writer: Connection) -> Any:
    writer.close()
    try:
        return pickle.loads(reader.recv_bytes()) if reader.poll(2 * SECONDS) else TimeoutError("no end")
    except EOFError:
        return None


def _fork(function, rank: int, ends: list[dict[int, Connection]], results: list[tuple[Connection, Connection]]) -> int:
    child = os.fork()
    if child:
        return child
    try:
        for other, pipes in enumerate(ends):
            for end in pipes.values() if other != rank else ():
                end.close()
        for other, (_, writer) in enumerate(results):
            if other != rank:
                writer.close()
        value = function(Topology(device="cpu", world=PipeGroup(rank, ends[rank])))
        results[rank][1].send_bytes(pickle.dumps(value))
    finally:
        os._exit(0)
