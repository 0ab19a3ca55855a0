"""What each rank does in ``test_groups.py`` about ranks that come late."""

from __future__ import annotations

import time

import paddle

from alignment.architecture.layout import Layout
from alignment.parallel.comms.gloo import _FIRST_PAIR_ID
from alignment.parallel.comms.gloo_patience import wait_longer
from alignment.parallel.initialise import initialise


def set_patience() -> list[bool]:
    """Return whether the patience of the world, of a group and of a pair can be set, and of none that is not there."""
    topology = initialise(device="cpu", seed=1, layout=Layout(pipeline=2))
    line = topology.pipeline
    if line.is_first:
        line.send(paddle.ones([1]), 1)
    else:
        line.receive([1], "float32", 0)
    groups = (0, line._handle.id, _FIRST_PAIR_ID + 1)
    there = [wait_longer(group, 660, rank=line.index, size=2) for group in groups]
    return [*there, wait_longer(999, 660, rank=line.index, size=2), wait_longer(0, 660, rank=line.index, size=3)]


def come_late(seconds: float) -> float:
    """Return a sum to which the second rank comes ``seconds`` after the first."""
    topology = initialise(device="cpu", seed=1, layout=Layout(pipeline=2))
    time.sleep(seconds * topology.rank)
    return topology.pipeline.sum_(paddle.ones([1])).item()
