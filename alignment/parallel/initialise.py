"""Start a process: select its device, seed it, and join the other ranks.

Together with ``device/host.py`` and ``comms/meeting.py`` the only reader of the environment.
"""

from __future__ import annotations

import os
import random
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

import numpy as np

from alignment.architecture.layout import ONE_PROCESS, Layout
from alignment.device.determinism import forbid_tf32, make_deterministic
from alignment.errors import UserError
from alignment.parallel.comms.group import ALONE, Group, Link
from alignment.parallel.comms.guard import DEFAULT_LIMIT, Guard
from alignment.parallel.comms.meeting import meeting, read_world
from alignment.parallel.comms.watch import ActivityBoard
from alignment.parallel.topology import Topology, batch_index, describe_rank


def initialise(
    *,
    device: str | None,
    seed: int,
    layout: Layout = ONE_PROCESS,
    timeout: float = DEFAULT_LIMIT,
    deterministic: bool = False,
) -> Topology:
    """Select the device, seed every generator, join the other processes and return the topology.

    ``device`` is None (a GPU if Paddle has one, else the CPU), ``cpu``, ``gpu`` or ``gpu:N``. UserError if the product
    of the degrees of ``layout`` is not the number of launched processes. An operation between processes that takes
    longer than ``timeout`` seconds ends the run. ``deterministic``: a GPU repeats its results bit for bit, as a CPU
    always does.
    """
    world_size, rank = read_world()
    if layout.world_size != world_size:
        raise UserError(f"launched with {world_size} processes, but the layout {layout} needs {layout.world_size}")
    kind = select_device(device, share=world_size > 1, deterministic=deterministic)
    seed_everything(seed)
    if world_size == 1:
        return Topology(device=kind)
    with meeting(describe_rank(rank, layout), limit=timeout):
        return _join(kind, layout, rank, timeout)


def select_device(device: str | None, *, share: bool = False, deterministic: bool = False) -> str:
    """Make ``device`` the default device (see ``initialise``) and return its kind, ``cpu`` or ``gpu``.

    ``share``: each process of this machine has its own GPU, chosen by the launcher. With ``cpu`` GPUs are not touched.
    """
    import paddle

    gpus = paddle.device.cuda.device_count() if device != "cpu" and paddle.is_compiled_with_cuda() else 0
    name = device or ("gpu" if gpus else "cpu")
    if name.startswith("gpu") and not gpus:
        raise UserError(f"device={name!r}, but this Paddle sees no GPU; use device=cpu")
    if name == "gpu" and share:  # this is how the launcher spells the variable
        name = f"gpu:{int(os.environ.get('FLAGS_selected_gpus', '0').split(',')[0])}"  # noqa: SIM112
    kind = name.partition(":")[0]
    if deterministic and kind == "gpu":
        make_deterministic()
    paddle.set_device(name)
    if kind == "gpu":
        forbid_tf32()
    return kind


@cache
def _join(device: str, layout: Layout, rank: int, timeout: float) -> Topology:
    """Join the other processes through fleet; the order of the axes is data, pipeline, sharding, tensor.

    Cached: a second run in this process uses the groups of the first.
    """
    from paddle.distributed import fleet
    from paddle.distributed.fleet.utils.log_util import set_log_level

    from alignment.parallel.comms.gloo import PairGroups, PrivateStores
    from alignment.parallel.comms.traffic import Traffic

    stores = PrivateStores(os.environ.get("POD_IP", "") or _own_host(), patience=timeout + 60)
    if device == "cpu":
        os.environ.setdefault("PADDLE_DISTRI_BACKEND", "gloo")
        stores.install()
    # Every rank creates all groups, so Paddle's warning about groups without this rank means nothing.
    warnings.filterwarnings("ignore", message="Current global rank")
    set_log_level("WARNING")
    strategy = fleet.DistributedStrategy()
    strategy.hybrid_configs = {
        "dp_degree": layout.data,
        "pp_degree": layout.pipeline,
        "sharding_degree": layout.sharding,
        "mp_degree": layout.tensor,
    }
    fleet.init(is_collective=True, strategy=strategy, log_level="WARNING")
    if device == "cpu":
        stores.adopt_world(rank, layout.world_size)
    hybrid = fleet.get_hybrid_communicate_group()
    pairs = PairGroups(stores, rank=rank, world_size=layout.world_size) if device == "cpu" else None
    link = Link(
        is_gloo=device == "cpu", pairs=pairs, guard=Guard(describe_rank(rank, layout), limit=timeout), traffic=Traffic()
    )

    def group(name: str, ranks, handle=None) -> Group:
        return Group(name, ranks, rank=rank, handle=handle, link=link)

    made = _make_groups(layout, rank)
    world = group("world", range(layout.world_size))
    link.guard.use(_open_board(world))
    return Topology(
        device=device,
        layout=layout,
        world=world,
        tensor=group("tensor", *_ranks_of(hybrid.get_model_parallel_group())),
        pipeline=group("pipeline", *_ranks_of(hybrid.get_pipe_parallel_group())),
        sharding=group("sharding", *_ranks_of(hybrid.get_sharding_parallel_group())),
        data=group("data", *_ranks_of(hybrid.get_data_parallel_group())),
        batch=group("batch", *made["batch"]),
        replica=group("replica", *made["replica"]),
        link=link,
    )


def _open_board(world: Group) -> ActivityBoard:
    """Return the activity board of this machine; every process of ``world`` must call this."""
    token = world.share_object(uuid.uuid4().hex, 0, "name of the board")
    board = ActivityBoard(token, rank=world.index, world_size=world.size)
    world.barrier("board")
    board.hide()
    return board


def _ranks_of(handle) -> tuple:
    return handle.ranks, handle


def _make_groups(layout: Layout, rank: int) -> dict[str, tuple]:
    """Create the groups that fleet lacks: ``batch`` and ``replica`` of ``Topology``."""
    inner = layout.tensor * layout.sharding
    keys = {
        "batch": lambda r: (r % layout.tensor, r // inner % layout.pipeline),
        "replica": lambda r: batch_index(r, layout),
    }
    return {name: _split_world(key, layout.world_size, rank) for name, key in keys.items()}


def _split_world(key: Callable[[int], Any], world_size: int, rank: int) -> tuple[list[int], Any]:
    """Group all ranks by ``key``; return (ranks, handle) of this rank's group. Every rank creates all groups."""
    import paddle.distributed as dist

    found: dict[Any, list[int]] = {}
    for other in range(world_size):
        found.setdefault(key(other), []).append(other)
    handles = {value: dist.new_group(ranks) if len(ranks) > 1 else None for value, ranks in found.items()}
    return found[key(rank)], handles[key(rank)]


def rollout_groups(topology: Topology, degree: int) -> tuple[Group, Group]:
    """Return the rollout's groups: (tensor-parallel, ``degree`` neighbouring ranks; replicas with the same share).

    All processes must call this, once; ``degree`` must divide their number.
    """
    if topology.world_size == 1:
        return ALONE, ALONE
    keys = {"rollout tensor": lambda r: r // degree, "rollout replicas": lambda r: r % degree}
    tensor, replicas = _open_groups(topology, keys)
    return tensor, replicas


def teacher_groups(topology: Topology, degree: int) -> tuple[Group, Group]:
    """Return the groups of a model that teams of ``degree`` neighbouring ranks hold beside the training layout: (the
    team; all ranks whose teams have micro-batches in common in training, directly or through others).

    All processes must call this, once; ``degree`` must divide their number.
    """
    if topology.world_size == 1:
        return ALONE, ALONE
    layout = topology.layout
    first = _joined(layout.world_size, lambda r: r // degree, lambda r: batch_index(r, layout))
    team, peers = _open_groups(topology, {"teacher": lambda r: r // degree, "teacher peers": first.__getitem__})
    return team, peers


def _joined(size: int, *keys: Callable[[int], Any]) -> list[int]:
    """Return for each rank the first of those that it is joined with by equal ``keys``, also through others."""
    first, before = list(range(size)), None
    while first != before:
        before = first
        for key in keys:
            least: dict[Any, int] = {}
            for rank in range(size):
                least[key(rank)] = min(first[rank], least.get(key(rank), size))
            first = [least[key(rank)] for rank in range(size)]
    return first


def _open_groups(topology: Topology, keys: Mapping[str, Callable[[int], Any]]) -> Iterator[Group]:
    """Yield this rank's group for each of ``keys``, by name; every rank creates all groups."""
    for name, key in keys.items():
        ranks, handle = _split_world(key, topology.world_size, topology.rank)
        yield Group(name, ranks, rank=topology.rank, handle=handle, link=topology.link)


def _own_host() -> str:
    return os.environ.get("PADDLE_CURRENT_ENDPOINT", "127.0.0.1:0").rpartition(":")[0]


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and Paddle."""
    import paddle

    random.seed(seed)
    np.random.seed(seed % 2**32)
    paddle.seed(seed)
