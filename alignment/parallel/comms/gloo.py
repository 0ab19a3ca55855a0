"""Completes Paddle's CPU process groups (gloo), so that every layout runs on a laptop; nothing here touches a GPU.

Three faults of Paddle 3.3 are put right, all only for the gloo backend:

- All sub-groups meet under the same keys of the one global store, so with four ranks they read each other's addresses
  and hang. Here each sub-group gets a store of its own.
- Send and receive count their messages per process, which diverges between ranks in a group of more than two. Here two
  ranks that talk get a group of their own (``PairGroups``).
- A rank that comes 30 seconds late breaks the group. Here the others wait longer (``gloo_patience``).

This is the one place that replaces a framework function at run time.
"""

from __future__ import annotations

import socket
import time
from typing import Any

import paddle
from paddle.base import core
from paddle.distributed import collective

from alignment.parallel.comms.gloo_patience import wait_longer

_FIRST_PAIR_ID = 1_000_000


class PrivateStores:
    """Makes ``new_group`` on a CPU meet in a store of its own; ``host`` is this machine's address for the others.

    Operations and meetings wait ``patience`` seconds; more than the guard's limit, whose message says more.
    """

    def __init__(self, host: str, *, patience: float) -> None:
        self._host, self._patience = host, int(patience)
        self._create = collective._new_process_group_impl
        self._kept: list[Any] = []

    def install(self) -> None:
        """Replace the framework's constructor of process groups."""
        collective._new_process_group_impl = self._create_group

    def _create_group(self, backend: str, store: Any, rank: int, world_size: int, *rest: Any, **named: Any) -> Any:
        """Stand in for the framework's function, which has ``group_id`` as its seventh argument."""
        group_id = named.get("group_id", rest[2] if len(rest) > 2 else 0)
        if backend == "gloo" and group_id != 0:
            store = self.open_store(store, f"alignment/gloo/{group_id}", is_owner=rank == 0)
        group = self._create(backend, store, rank, world_size, *rest, **named)
        if backend == "gloo":
            wait_longer(group_id, self._patience, rank=rank, size=world_size)
        return group

    def adopt_world(self, rank: int, world_size: int) -> None:
        """Give the group of all processes, which the framework makes by itself, the patience of the others."""
        wait_longer(0, self._patience, rank=rank, size=world_size)

    def create_pair(self, index: int, group_id: int) -> Any:
        """Return a process group of two ranks, of which this one is ``index`` (0 or 1)."""
        return self._create_group("gloo", collective._default_store, index, 2, "", None, _FIRST_PAIR_ID + group_id)

    def open_store(self, meeting: Any, key: str, *, is_owner: bool) -> Any:
        """Return a new store that its owner starts and the others find through ``meeting`` under ``key``."""
        if is_owner:
            store, port = _start_store(self._host, self._patience)
            meeting.set(key, f"{self._host}:{port}".encode())
        else:
            meeting.wait(key)
            host, _, port = meeting.get(key).decode().rpartition(":")
            store = core.TCPStore(host, int(port), False, 1, self._patience)
        self._kept.append(store)
        return store


class PairGroups:
    """Process groups of two ranks each, made when they first talk. Both sides must come to it, in the same order."""

    def __init__(self, stores: PrivateStores, *, rank: int, world_size: int) -> None:
        self._stores, self._rank, self._world_size = stores, rank, world_size
        self._groups: dict[int, Any] = {}

    def send(self, tensor: paddle.Tensor, peer: int) -> None:
        """Send ``tensor`` to the world rank ``peer`` and wait until it is taken."""
        self._with(peer).send(tensor, int(peer > self._rank), True).wait()

    def receive(self, tensor: paddle.Tensor, peer: int) -> None:
        """Fill ``tensor`` with what ``peer`` sends."""
        self._with(peer).recv(tensor, int(peer > self._rank), True).wait()

    def _with(self, peer: int) -> Any:
        if peer not in self._groups:
            low, high = sorted((self._rank, peer))
            self._groups[peer] = self._stores.create_pair(int(self._rank == high), low * self._world_size + high)
        return self._groups[peer]


def _start_store(host: str, patience: int) -> tuple[Any, int]:
    """Return (a store served from this process, its port); a port that was taken meanwhile is tried anew."""
    for attempt in range(20):
        with socket.socket() as probe:
            probe.bind(("", 0))
            port = probe.getsockname()[1]
        try:
            # One worker: the constructor must not wait for the others, who do not know the port yet.
            return core.TCPStore(host, port, True, 1, patience), port
        except Exception:
            if attempt == 19:
                raise
            time.sleep(0.05)
    raise AssertionError("unreachable")
