"""What each rank does in ``test_eval_mode.py``: train in one layout (any numbers will do), generate in another."""

from __future__ import annotations

import numpy as np
import paddle
from ranks_fused import CUDA, fused_engine
from ranks_fused import config_of as fused_config
from ranks_generation import IDS, OPTIONS, PROMPTS, build_engine, config_of, plain, whole_weights

from alignment.architecture.layout import Layout
from alignment.architecture.parts import Part, even_cut
from alignment.errors import UserError
from alignment.models.decoder.placement import Placement
from alignment.parallel.initialise import initialise
from alignment.rollout.rollout_weights import RolloutWeights, rollout_parts, rollout_placement
from alignment.rollout.team_engine import TeamEngine


def kinds_of(family: str) -> tuple[str, ...]:
    """Return the kinds of options to try; the emulated device is slow."""
    return ("sampled",) if family == CUDA else ("greedy", "sampled")


def held_parts(topology, config) -> dict[str, Part]:
    """Return what this rank trains; sharding stage 3 leaves it some rows of each tensor."""
    parts = Placement.of(topology).parts(config, "causal")
    if topology.layout.sharding_stage < 3:
        return parts
    group = topology.sharding
    cut = {name: part.along(0, *even_cut(part.extent[0], group.size, group.index)) for name, part in parts.items()}
    return {name: part for name, part in cut.items() if part.size}


def generate(layout: Layout, modes: list[tuple[str | None, int]], families: list[str]) -> dict:
    """Return completions by (mode, degree, family, seed of the weights, kind), and what was checked on the way."""
    topology = initialise(device="cpu", seed=1, layout=layout)
    found = {"bitwise": True, "in place": {}, "moved": {}}
    for mode in modes:
        how = {"eval_mode": mode[0], "degree": mode[1]}
        for family in families:
            config = fused_config(family) if family == CUDA else config_of(family)
            placement = rollout_placement(topology, config, **how)
            held = held_parts(topology, config)
            wanted = rollout_parts(config, layout, **how)
            weights = RolloutWeights(topology, list(held.values()), wanted)
            build = fused_engine if family == CUDA else build_engine
            engine = build(config, placement.engine)
            team = TeamEngine(engine, placement.replicas, config=config, weights=weights)
            trained = {name: paddle.empty(list(part.extent)) for name, part in held.items()}
            for seed in (0, 7):
                whole = whole_weights(config, seed)
                for name, part in held.items():
                    trained[name].set_value(np.ascontiguousarray(whole[name][part.slices]))
                streamed = dict(weights.stream(trained))
                found["bitwise"] &= _equal(streamed, wanted[topology.rank], whole)
                found["in place"][mode, family] = sum(
                    any(t is own for own in trained.values()) for t in streamed.values()
                )
                team.load_weights(trained.items(), seed)
                for kind in kinds_of(family):
                    completions = team.generate(PROMPTS, OPTIONS[kind], seed=1, sequence_ids=IDS)
                    found[mode, family, seed, kind] = plain(completions)
            team.release()
            found["moved"][mode, family] = weights.plan.totals(4)
    return found


def _equal(streamed: dict, wanted: list[Part], whole: dict) -> bool:
    """Return whether ``streamed`` is what is ``wanted``, bit for bit."""
    return sorted(streamed) == sorted(part.name for part in wanted) and all(
        np.array_equal(streamed[part.name].numpy(), whole[part.name][part.slices]) for part in wanted
    )


def refuse(layout: Layout) -> str:
    topology = initialise(device="cpu", seed=1, layout=layout)
    try:
        rollout_placement(topology, config_of("llama"), eval_mode="tensor_parallel", degree=3)
    except UserError as error:
        return str(error)
    return "no error"
