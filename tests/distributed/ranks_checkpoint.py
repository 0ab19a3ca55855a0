"""What each rank does in ``test_checkpoint_layouts.py``."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np

from alignment.architecture.layout import Layout
from alignment.architecture.parts import Part
from alignment.models.decoder.decoder import CausalLM
from alignment.models.decoder.placement import Placement
from alignment.models.folders.hub import load_causal_lm
from alignment.models.folders.saving import WeightSource, save_model
from alignment.parallel.initialise import initialise
from alignment.parallel.sharding.stage3 import SlicedWeights
from alignment.parallel.topology import Topology
from alignment.training.checkpoint import Checkpoint, CheckpointStore

GROUP = "policy_optimizer"
FIELDS = ("moment1_0", "moment2_0")


def make_state(parts: dict[str, Part]) -> dict[str, np.ndarray]:
    """Return the rectangles ``parts`` of the same whole state in every layout."""
    state = {"num_updates": np.array([3], np.int64)}
    for name, part in parts.items():
        generator = np.random.default_rng(list(name.encode()))
        for field in FIELDS:
            state[f"{name}/{field}"] = generator.standard_normal(part.shape).astype(np.float32)[part.slices]
        state[f"{name}/beta1_pow_acc_0"] = np.array([len(name) / 100], np.float32)
    return state


def source_of(model: CausalLM, topology: Topology) -> WeightSource:
    """Return where the weights of ``model`` are; in sharding stage 3 that is this process's rows."""
    if topology.layout.sharding_stage < 3:
        return WeightSource.of(model, topology)
    sliced = SlicedWeights(model, topology.sharding, part_of=model.parts.__getitem__)
    return WeightSource(tensors=sliced.slices, parts=sliced.parts, topology=topology)


def save_and_restore(layout: Layout, models: dict[str, Path], output: Path, others: list[Path]) -> dict[str, bool]:
    """Save each model and its state from ``layout``, then read the state of checkpoints that other layouts wrote."""
    topology = initialise(device="cpu", seed=1, layout=layout)
    same = {}
    for name, folder in models.items():
        model = load_causal_lm(folder, placement=Placement.of(topology))
        source = source_of(model, topology)
        save(topology, source, model, output / name)
        for other in [output, *others]:
            same[f"{name} from {other.name}"] = reads_back(source, other / name)
    return same


def save(topology: Topology, source: WeightSource, model: CausalLM, folder: Path, *, step: int = 1) -> Path:
    """Save ``model`` and a state of its parts."""
    parts = dict(source.parts)
    return CheckpointStore(folder, topology=topology).save(
        step,
        models={"policy": lambda target: save_model(target, model, None, weights=source)},
        tensors={GROUP: make_state(parts)},
        state={},
        parts={GROUP: parts},
    )


def reads_back(mine: WeightSource, folder: Path) -> bool:
    """Return whether this rank reads from ``folder`` the state and the weights that belong to its part."""
    topology = mine.topology
    found = Checkpoint(CheckpointStore(folder).newest())
    own = source_of(load_causal_lm(found.model_folder("policy"), placement=Placement.of(topology)), topology)
    state = found.tensors(GROUP, parts=own.parts, known=set().union(*topology.world.gather_objects(list(own.parts))))
    expected = make_state(dict(own.parts))
    return (
        state.keys() == expected.keys()
        and all(np.array_equal(state[key], expected[key]) for key in expected)
        and own.parts == mine.parts
        and all(np.array_equal(own.tensors[name].numpy(), mine.tensors[name].numpy()) for name in own.parts)
    )


def save_then_die(layout: Layout, model_folder: Path, output: Path, victim: int) -> None:
    """Save one checkpoint, and lose ``victim`` while it writes the second."""
    topology = initialise(device="cpu", seed=1, layout=layout)
    model = load_causal_lm(model_folder, placement=Placement.of(topology))
    source = source_of(model, topology)
    save(topology, source, model, output)
    if topology.rank == victim:
        WeightSource.stream_written = lambda _: os.kill(os.getpid(), signal.SIGKILL)
    save(topology, source, model, output, step=2)
