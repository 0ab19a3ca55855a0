"""Which weights each process needs to generate, and what is refused."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import paddle
import pytest

from alignment.architecture.cuts import parts_of_rank, whole_shapes
from alignment.architecture.decoder_config import DecoderConfig
from alignment.architecture.layout import ONE_PROCESS, Layout
from alignment.architecture.reshard_plan import plan_transfers
from alignment.errors import ArgumentError
from alignment.generation.engine_placement import WHOLE_MODEL
from alignment.parallel.comms.group import ALONE
from alignment.parallel.topology import Topology
from alignment.rollout import rollout_weights
from alignment.rollout.rollout_weights import (
    RolloutWeights,
    check_rollout,
    print_plan,
    rollout_parts,
    rollout_placement,
)

CONFIG = DecoderConfig.from_dict(
    dict(
        model_type="llama",
        vocab_size=21,
        hidden_size=24,
        intermediate_size=30,
        num_hidden_layers=4,
        num_attention_heads=12,
        num_key_value_heads=2,
    )
)
TRAINING = Layout(tensor=2, pipeline=2, data=2)


def test_single_wants_everything_everywhere():
    parts = rollout_parts(CONFIG, TRAINING, eval_mode="single", degree=-1)
    assert len(parts) == 8
    for of_rank in parts:
        assert {part.name for part in of_rank} == set(whole_shapes(CONFIG, "causal"))
        assert all(part.is_whole for part in of_rank)


def test_the_empty_mode_wants_what_is_trained():
    parts = rollout_parts(CONFIG, TRAINING, eval_mode=None, degree=-1)
    assert parts == [parts_of_rank(CONFIG, "causal", TRAINING, rank) for rank in range(8)]


@pytest.mark.parametrize("degree", [2, 4])
def test_neighbours_share_a_model_without_stages(degree):
    parts = rollout_parts(CONFIG, TRAINING, eval_mode="tensor_parallel", degree=degree)
    for rank, of_rank in enumerate(parts):
        assert of_rank == parts[rank % degree]
        queries = next(part for part in of_rank if part.name == "model.layers.3.self_attn.q_proj.weight")
        assert queries.extent == (24, 24 // degree)
        keys = next(part for part in of_rank if part.name == "model.layers.3.self_attn.k_proj.weight")
        assert keys.extent == (24, 2), "with more processes than key heads, several hold the same"


def test_without_a_degree_that_of_training_counts():
    parts = rollout_parts(CONFIG, TRAINING, eval_mode="tensor_parallel", degree=-1)
    assert parts == rollout_parts(CONFIG, TRAINING, eval_mode="tensor_parallel", degree=2)


@pytest.mark.parametrize("degree", [3, 5, 8, 16])
def test_degrees_that_do_not_fit_are_refused(degree):
    """8 divides the processes but not the 12 heads, 3 the heads but not the processes."""
    with pytest.raises(ArgumentError, match=f"rollout_tensor_parallel_degree={degree} .*allowed: 1, 2, 4$"):
        check_rollout(CONFIG, TRAINING, eval_mode="tensor_parallel", degree=degree)
    check_rollout(CONFIG, TRAINING, eval_mode="single", degree=degree)
    check_rollout(CONFIG, TRAINING, eval_mode=None, degree=degree)


@pytest.mark.parametrize("mode", [None, "single", "tensor_parallel"])
def test_in_one_process_nothing_moves(mode):
    topology = Topology(device="cpu")
    placement = rollout_placement(topology, CONFIG, eval_mode=mode, degree=-1)
    assert placement.replicas is ALONE and placement.engine.tensor is ALONE and placement.engine.pipeline is ALONE
    assert placement.engine.chunks(4) == WHOLE_MODEL.chunks(4)
    held = parts_of_rank(CONFIG, "causal", ONE_PROCESS, 0)
    weights = RolloutWeights(topology, held, rollout_parts(CONFIG, ONE_PROCESS, eval_mode=mode, degree=-1))
    trained = {part.name: paddle.to_tensor(np.zeros(part.extent, np.float32)) for part in held}
    streamed = dict(weights.stream(trained))
    assert streamed.keys() == trained.keys()
    assert all(streamed[name] is tensor for name, tensor in trained.items())


def test_a_dry_run_prints_who_sends_what_to_whom(capsys):
    sources = [parts_of_rank(CONFIG, "causal", TRAINING, rank) for rank in range(8)]
    plan = plan_transfers(sources, rollout_parts(CONFIG, TRAINING, eval_mode="single", degree=-1))
    print_plan(plan, bytes_per_element=4)
    printed = capsys.readouterr().out
    assert "from rank" in printed and "largest sender MiB" in printed
    # A plan of eight processes: every one of them takes something from others.
    pairs = plan.table(4)
    assert {row.target for row in pairs if row.source != row.target} == set(range(8))
    assert len(printed.splitlines()) > len(pairs)


def test_a_degree_that_does_not_fit_makes_no_groups():
    with pytest.raises(ArgumentError, match="rollout_tensor_parallel_degree=5 does not divide the 1 processes"):
        rollout_placement(Topology(device="cpu"), CONFIG, eval_mode="tensor_parallel", degree=5)


def test_each_mode_generates_with_its_own_groups(monkeypatch):
    """Names stand for groups: of the rollout, of all processes, and of training."""
    asked = []
    monkeypatch.setattr(rollout_weights, "rollout_groups", lambda topology, degree: asked.append(degree) or ("t", "r"))
    monkeypatch.setattr(
        rollout_weights.Placement, "of", lambda topology: SimpleNamespace(layers=lambda count: range(count // 2))
    )
    topology = SimpleNamespace(layout=TRAINING, world="w", tensor="training t", pipeline="p", batch="b")
    shared = rollout_placement(topology, CONFIG, eval_mode="tensor_parallel", degree=4)
    assert (shared.engine.tensor, shared.engine.pipeline, shared.replicas, asked) == ("t", ALONE, "r", [4])
    alone = rollout_placement(topology, CONFIG, eval_mode="single", degree=4)
    assert (alone.engine, alone.replicas) == (WHOLE_MODEL, "w")
    trained = rollout_placement(topology, CONFIG, eval_mode=None, degree=4)
    assert (trained.engine.tensor, trained.engine.pipeline, trained.replicas) == ("training t", "p", "b")
    assert trained.engine.layers == (0, 1)
