"""Start of a process: device, seed and place among the ranks. With ``host.py``, the only reader of the environment."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass

import numpy as np

from alignment.errors import UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """This process among all; built once and handed to constructors."""

    world_size: int
    rank: int
    device: str

    @property
    def is_main(self) -> bool:
        """True on the one process that writes logs and files."""
        return self.rank == 0


def read_world() -> tuple[int, int]:
    """Return (world size, rank) as ``paddle.distributed.launch`` states them."""
    return int(os.environ.get("PADDLE_TRAINERS_NUM", "1")), int(os.environ.get("PADDLE_TRAINER_ID", "0"))


def initialise(*, device: str | None, seed: int) -> Topology:
    """Select the device, seed every generator and return the topology.

    ``device`` is None (a GPU when Paddle has one, else the CPU), ``cpu``, ``gpu`` or ``gpu:N``.
    """
    import paddle

    world_size, rank = read_world()
    if world_size > 1:
        raise UserError(
            f"launched with {world_size} processes; this version runs one (--nproc_per_node 1). "
            "Parallel layouts are the next piece of the suite"
        )
    gpus = paddle.device.cuda.device_count() if paddle.is_compiled_with_cuda() else 0
    name = device or ("gpu" if gpus else "cpu")
    if name.startswith("gpu") and not gpus:
        raise UserError(f"device={name!r}, but this Paddle sees no GPU; use device=cpu")
    paddle.set_device(name)
    seed_everything(seed)
    return Topology(world_size=world_size, rank=rank, device="gpu" if name.startswith("gpu") else "cpu")


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and Paddle."""
    import paddle

    random.seed(seed)
    np.random.seed(seed % 2**32)
    paddle.seed(seed)
