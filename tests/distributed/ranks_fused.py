"""What each rank does in ``test_fused_generation.py``: generate with its part of the weights in the fused engine."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import paddle

from alignment.architecture.decoder_config import DecoderConfig
from alignment.architecture.layout import Layout
from alignment.errors import UserError
from alignment.generation.engine import GenerationOptions
from alignment.generation.engine_placement import EnginePlacement
from alignment.generation.fused.fused_engine import FusedEngine
from alignment.generation.fused.fused_settings import AUTO, WEIGHT_TYPES, FusedSettings
from alignment.generation.fused.kernels import CPU_KERNELS, Kernels
from alignment.models.decoder.placement import Placement
from alignment.parallel.initialise import initialise
from tests.distributed import ranks_generation
from tests.distributed.ranks_generation import FAMILIES, IDS, OPTIONS, PROMPTS, SHAPE
from tests.emulated import emulated_kernels

CUDA = "cuda"
"""A family of this test: few layers and wide heads, on the emulated CUDA kernels."""
MIXTURES = ("shared expert",)
"""Families in which each process has some columns of every expert, or under expert parallelism whole ones."""
_CUDA_SHAPE = {"model_type": "llama", "num_hidden_layers": 2, "head_dim": 32}


def config_of(family: str) -> DecoderConfig:
    """Return a shape whose shares the kernels can compute (they need even widths)."""
    own = _CUDA_SHAPE if family == CUDA else FAMILIES[family]
    return DecoderConfig.from_dict({**SHAPE, "intermediate_size": 56, **own})


def options_of(family: str) -> dict[str, GenerationOptions]:
    """Return the kinds of options to try; the emulated device is slow, most of all at finding the likeliest tokens."""
    return (
        {"penalty": OPTIONS["penalty"], "sampled": OPTIONS["sampled"]}
        if family == CUDA
        else ranks_generation.options_of(family)
    )


def generate_whole(family: str) -> dict[str, list[tuple]]:
    """Return what the eager engine gives in one process, by kind of options."""
    config = config_of(family)
    engine = ranks_generation.build_engine(config)
    weights = ranks_generation.whole_weights(config).items()
    engine.load_weights(((name, paddle.to_tensor(weight)) for name, weight in weights), 0)
    return {
        kind: ranks_generation.plain(engine.generate(PROMPTS, options, seed=1, sequence_ids=IDS))
        for kind, options in options_of(family).items()
    }


def fused_engine(
    config: DecoderConfig, placement: EnginePlacement, kernels: Kernels | None = None, *, weight_type: str = "float32"
) -> FusedEngine:
    """Return an engine without weights, by default on the emulated CUDA kernels."""
    settings = FusedSettings(num_slots=3, max_rows=7, weight_type=weight_type)
    kernels = kernels or emulated_kernels()
    return FusedEngine(SimpleNamespace(config=config), settings, placement=placement, kernels=kernels)


def load(topology, family: str, *, damaged: bool = False) -> FusedEngine:
    """Return an engine with this rank's part of the weights; ``damaged``: NaN in the last rank's part."""
    config, placement = config_of(family), Placement.of(topology)
    weights = ranks_generation.whole_weights(config)
    seat = EnginePlacement(tensor=topology.tensor, experts=topology.layout.expert)
    if damaged and topology.tensor.is_last:
        weights["model.layers.1.mlp.up_proj.weight"][:] = float("nan")
    kernels = emulated_kernels() if family == CUDA else CPU_KERNELS
    engine = fused_engine(config, seat, kernels)
    engine.load_weights(ranks_generation.part_of_weights(config, placement, weights), 0)
    return engine


def generate(layout: Layout, families: list[str]) -> dict:
    """Return completions by (family, kind of options)."""
    topology = initialise(device="cpu", seed=1, layout=layout)
    found = {}
    for family in families:
        engine = load(topology, family)
        for kind, options in options_of(family).items():
            found[family, kind] = ranks_generation.plain(engine.generate(PROMPTS, options, seed=1, sequence_ids=IDS))
    return found


def generate_in_bytes(layout: Layout) -> list[list[tuple]]:
    """Return completions with int8 weights, whose scales are those of each rank's part, by the CPU's kernels and by
    CUDA's.
    """
    topology, config = initialise(device="cpu", seed=1, layout=layout), config_of(CUDA)
    found = []
    for kernels in (CPU_KERNELS, emulated_kernels()):
        engine = fused_engine(config, EnginePlacement(tensor=topology.tensor), kernels, weight_type="int8")
        weights = ranks_generation.whole_weights(config)
        engine.load_weights(ranks_generation.part_of_weights(config, Placement.of(topology), weights), 0)
        found.append(ranks_generation.plain(engine.generate(PROMPTS, OPTIONS["sampled"], seed=1, sequence_ids=IDS)))
    return found


def generate_with_drafts(layout: Layout) -> dict[str, list]:
    """Return by type of weights: completions without drafts, with them, with those of last time, and both counts."""
    topology, config = initialise(device="cpu", seed=1, layout=layout), config_of("qwen2")
    part = ranks_generation.part_of_weights(config, Placement.of(topology), ranks_generation.whole_weights(config))
    part = list(part)
    found = {}
    for weight_type in WEIGHT_TYPES:
        made: list[Any] = []
        for drafts in (0, AUTO):
            how = {"speculative_tokens": drafts, "speculative_method": "previous", "weight_type": weight_type}
            model, seat = SimpleNamespace(config=config), EnginePlacement(tensor=topology.tensor)
            engine = FusedEngine(model, FusedSettings(num_slots=3, max_rows=7, **how), placement=seat)
            engine.load_weights(part, 0)
            for _ in range(1 + (drafts == AUTO)):
                answers = engine.generate(PROMPTS, OPTIONS["sampled"], seed=1, sequence_ids=IDS)
                made.append([(c.token_ids.tolist(), c.logprobs.tobytes(), c.finish_reason) for c in answers])
        found[weight_type] = [*made, engine.counts.drafted, engine.counts.accepted]
    return found


OLD_CONTEXT = 20
LONGROPE = {
    **SHAPE,
    "model_type": "phi3",
    "intermediate_size": 56,
    "original_max_position_embeddings": OLD_CONTEXT,
    "rope_scaling": {"type": "longrope", "short_factor": [1.0, 1.1, 1.3, 1.6], "long_factor": [2.0, 3.0, 4.0, 5.0]},
}
LONG_AND_SHORT = [[*range(2, 24)], [5, 6, 7, 5, 6], [*range(2, 24)], [*range(3, 39), 9, 3], [2]]
"""Prompts on both sides of the old context."""


def answer_long_and_short(engine: Any) -> list[tuple]:
    """Return completions of prompts on both sides of longrope's old context."""
    options = GenerationOptions(max_new_tokens=OLD_CONTEXT - 5, stop_token_ids=(3,))
    return ranks_generation.plain(engine.generate(LONG_AND_SHORT, options, seed=1, sequence_ids=IDS[:5]))


def generate_longrope(layout: Layout) -> dict[str, list[Any]]:
    """Return by type of weights: completions without and with drafts, and how many of these were right."""
    topology, config = initialise(device="cpu", seed=1, layout=layout), DecoderConfig.from_dict(LONGROPE)
    part = ranks_generation.part_of_weights(config, Placement.of(topology), ranks_generation.whole_weights(config))
    part = list(part)
    found: dict[str, list[Any]] = {}
    for weight_type in WEIGHT_TYPES:
        found[weight_type] = []
        for drafts in (0, 3):
            how = {"speculative_tokens": drafts, "speculative_method": "previous", "weight_type": weight_type}
            model, seat = SimpleNamespace(config=config), EnginePlacement(tensor=topology.tensor)
            settings = FusedSettings(num_slots=3, max_rows=7, block_tokens=16, **how)
            engine = FusedEngine(model, settings, placement=seat)
            engine.load_weights(part, 0)
            found[weight_type] += [answer_long_and_short(engine) for _ in range(1 + bool(drafts))]
        found[weight_type].append(engine.counts.accepted)
    return found


def longrope_whole() -> list[tuple]:
    """Return what the eager engine answers in one process."""
    config = DecoderConfig.from_dict(LONGROPE)
    engine = ranks_generation.build_engine(config)
    engine.load_weights(((n, paddle.to_tensor(w)) for n, w in ranks_generation.whole_weights(config).items()), 0)
    return answer_long_and_short(engine)


def fail(layout: Layout, family: str) -> str:
    """Return the message of the error that this rank got."""
    engine = load(initialise(device="cpu", seed=1, layout=layout), family, damaged=True)
    try:
        engine.generate(PROMPTS, OPTIONS["sampled"], seed=1, sequence_ids=IDS)
    except UserError as error:
        return f"{type(error).__name__}: {error}"
    return "no error"
