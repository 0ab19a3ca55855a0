"""What each rank does in ``test_offload.py``: the same updates with and without offload."""

from __future__ import annotations

from typing import Any

import numpy as np
from ranks_runner import policy_task
from ranks_sharding import ADAM, SCHEDULE, at_stage, build_model, slice_frozen

from alignment.architecture.layout import Layout
from alignment.device.offload import Offloaded, resident
from alignment.models.decoder.placement import Placement
from alignment.parallel.build_runner import build_runner
from alignment.parallel.initialise import initialise
from alignment.parallel.sharding.partition import MAX_STAGE
from alignment.parallel.topology import Topology
from alignment.runs.placed import shard_model
from alignment.training.learner import Learner
from alignment.training.optimizers import NamedAdamW
from tests.offloaded import bytes_away

CASE = {"tied": True, "recompute": "full"}


def build_learner(topology: Topology) -> Learner:
    """Return a learner of a small language model."""
    model = build_model(CASE, Placement.of(topology))
    shards = shard_model(model, topology)
    return Learner(
        "policy",
        build_runner(model, topology),
        optimizer=NamedAdamW(shards.parameters, ADAM, parts=shards.parts, masters=shards.masters),
        schedule=SCHEDULE,
        max_grad_norm=0.5,
        shards=shards,
    )


def train(learner: Learner, *, wrapped: bool) -> dict[str, Any]:
    """Apply three updates of two accumulations each; return weights, state and what was away in between."""
    away = []
    for count in (3, 2, 4):
        batches, make_objective = policy_task(count)
        owners = (learner.offloaded_model, learner.offloaded_optimizer) if wrapped else ()
        with resident(*owners):
            learner.accumulate(batches, make_objective(learner.runner.model))
            away.append(count_away(learner))
            learner.accumulate(batches[:1], make_objective(learner.runner.model))
            learner.apply()
        away.append(count_away(learner))
    return {
        "away": away,
        "weights": {name: value.numpy() for name, value in learner.weights()},
        "state": learner.state(),
        "away after": count_away(learner),
    }


def count_away(learner: Learner) -> tuple[int, int]:
    """Return the bytes in host memory of (model, optimizer)."""
    owners = (learner.offloaded_model, learner.offloaded_optimizer)
    return tuple(0 if owner is None else bytes_away(owner) for owner in owners)


def compare(layout: Layout, stage: int) -> dict[str, Any]:
    """Train at ``stage`` without offload, with it around every call, and with it around every update."""
    topology = at_stage(initialise(device="cpu", seed=1, layout=layout), {"stage": stage})
    results = {"plain": train(build_learner(topology), wrapped=False)}
    for name, wrapped in (("every call", False), ("every update", True)):
        learner = build_learner(topology)
        learner.offload(model=True, optimizer=True)
        results[name] = train(learner, wrapped=wrapped)
    sizes = [int(p.size) for p in learner.runner.model.parameters()]
    results["frozen"] = score_frozen(topology)
    return {**results, "parameters": sum(sizes)}


def score_frozen(topology: Topology) -> dict[str, Any]:
    """Return the outputs of a frozen model before and while it is offloaded, and the bytes away outside."""
    model = build_model(CASE, Placement.of(topology))
    sliced = slice_frozen(model, topology) if topology.layout.sharding_stage == MAX_STAGE else None
    runner = build_runner(model, topology)
    batches, _ = policy_task(3)

    def read(model: Any, batch: Any) -> Any:
        return model.model(batch.input_ids, lengths=batch.lengths)

    before = runner.forward(batches, read)
    home = Offloaded("reference", model.named_parameters if sliced is None else sliced.named_tensors)
    away = bytes_away(home)
    with resident(home):
        inside = bytes_away(home)
        after = runner.forward(batches, read)
    same = all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    whole = sum(int(p.size) for p in model.parameters() if p._is_initialized())
    return {"same": same, "away": (away, inside, bytes_away(home)), "whole": whole}
