"""Trainers in several processes, with small models: what the tests of resuming, killing and launching share."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from alignment.errors import UserError
from alignment.models.safetensors_io import read_tensors
from alignment.parallel.local_ranks import run_ranks
from alignment.parity.subjects import write_arguments

LAYOUT = {"tensor_parallel_degree": 2, "sharding": "stage1", "sharding_parallel_degree": 2}
"""Four processes, two of which see rows of their own."""
STABLE = {"use_ema": True, "ema_beta": 0.5, "freezing_actor_steps": 1}
"""PPO with an average of the policy, after a rollout that only the critic learns from."""
CHECKPOINTS = {"save_strategy": "steps", "save_steps": 2, "max_steps": 6}


def train(folder: Path, output: str, changes: dict[str, Any], *, world_size: int, trainer: str = "ppo") -> Path:
    """Run ``trainer`` in ``world_size`` processes to its end; return its output folder."""
    path = write_arguments(folder, trainer, output, changes)
    target = "alignment.parity.trajectory:train_all"
    run_ranks(target, [(trainer, str(path))], world_size=world_size, timeout=300)
    return folder / output


def weights(output: Path) -> dict[str, np.ndarray]:
    """Return the exported tensors by model and name."""
    return {
        f"{model}/{stored.name}": stored.as_float32()
        for model in ("policy", "policy_ema", "value")
        if (output / model).is_dir()
        for stored in read_tensors(output / model)
    }


def files(output: Path) -> dict[str, bytes]:
    """Return the exported weight files as they are on the disk."""
    return {str(path.relative_to(output)): path.read_bytes() for path in sorted(output.glob("[pv]*/*.safetensors"))}


def largest_difference(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> float:
    """Return the largest norm of a tensor's difference, relative to the norm of the tensor."""
    assert one.keys() == other.keys()
    return max(float(np.linalg.norm(a - other[name]) / np.linalg.norm(a)) for name, a in one.items())


def train_and_kill(
    folder: Path, output: str, changes: dict[str, Any], *, world_size: int, rank: int, after: float
) -> bool:
    """Run and SIGKILL ``rank`` ``after`` seconds from its start; return whether the run was cut short."""
    killer = threading.Thread(target=_kill_when_running, args=(rank, after), daemon=True)
    killer.start()
    try:
        train(folder, output, changes, world_size=world_size)
    except UserError:
        return True
    finally:
        killer.join()
    return False


def _kill_when_running(rank: int, after: float) -> None:
    """Find the rank among the grandchildren of this process, wait and kill it; give up when the run ends first."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        ranks = [child for server in _children(os.getpid()) for child in _children(server)]
        if len(ranks) > rank:
            time.sleep(after)
            try:
                os.kill(sorted(ranks)[rank], signal.SIGKILL)
            except ProcessLookupError:
                return
            return
        time.sleep(0.02)


def _children(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(stat.parent.name))
    return found
