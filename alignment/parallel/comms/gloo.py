"""Fix Paddle's CPU process groups (gloo) so that every layout runs without GPUs; GPU groups are not touched.

Paddle 3.3 has three bugs with the gloo backend:

- All subgroups rendezvous under the same keys of one global store, so with four ranks they read each other's addresses
  and hang. Here each subgroup gets its own store.
- Send and receive number their messages per process, which diverges between ranks in a group of more than two. Here
  every pair of ranks that exchange messages gets its own group (``PairGroups``).
- A rank that is 30 seconds late breaks the group. Here the others wait longer (``gloo_patience``).

No other module replaces a framework function at run time.
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
    """Makes each gloo group rendezvous in its own store; ``host`` is this machine's address as others reach it.

    Operations and rendezvous time out after ``patience`` seconds, which should exceed the guard's limit: its message
    says more.
    """

    def __init__(self, host: str, *, patience: float) -> None:
        self._host, self._patience = host, int(patience)
        self._create = collective._new_process_group_impl
        self._kept: list[Any] = []

    def install(self) -> None:
        """Replace the framework's constructor of process groups."""
        collective._new_process_group_impl = self._create_group

    def _create_group(self, backend: str, store: Any, rank: int, world_size: int, *rest: Any, **named: Any) -> Any:
        """Replace the framework's function, whose seventh argument is ``group_id``."""
        group_id = named.get("group_id", rest[2] if len(rest) > 2 else 0)
        if backend == "gloo" and group_id != 0:
            store = self.open_store(store, f"alignment/gloo/{group_id}", is_owner=rank == 0)
        group = self._create(backend, store, rank, world_size, *rest, **named)
        if backend == "gloo":
            wait_longer(group_id, self._patience, rank=rank, size=world_size)
        return group

    def adopt_world(self, rank: int, world_size: int) -> None:
        """Set the timeout of the world group, which the framework creates by itself."""
        wait_longer(0, self._patience, rank=rank, size=world_size)

    def create_pair(self, index: int, group_id: int) -> Any:
        """Return a process group of two ranks, in which this process has rank ``index`` (0 or 1)."""
        return self._create_group("gloo", collective._default_store, index, 2, "", None, _FIRST_PAIR_ID + group_id)

    def open_store(self, meeting: Any, key: str, *, is_owner: bool) -> Any:
        """Return a new store, which its owner starts and the others find in the store ``meeting`` under ``key``."""
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
    """Process groups of two ranks, created at their first message; both sides must create theirs in the same order."""

    def __init__(self, stores: PrivateStores, *, rank: int, world_size: int) -> None:
        self._stores, self._rank, self._world_size = stores, rank, world_size
        self._groups: dict[int, Any] = {}

    def send(self, tensor: paddle.Tensor, peer: int) -> None:
        """Send ``tensor`` to the world rank ``peer`` and wait until it is received."""
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
    """Return (a store served by this process, its port); retry with another port if the chosen one gets taken."""
    for attempt in range(20):
        with socket.socket() as probe:
            probe.bind(("", 0))
            port = probe.getsockname()[1]
        try:
            # A world of one: the constructor must not wait for the others, which do not know the port yet.
            return core.TCPStore(host, port, True, 1, patience), port
        except Exception:
            if attempt == 19:
                raise
            time.sleep(0.05)
    raise AssertionError("unreachable")
