"""Bytes that a process sends in an update."""

from __future__ import annotations

import pytest

from alignment.architecture.layout import Layout
from alignment.planner.counts.shapes import Held, model_elements
from alignment.planner.messages import idle_share, layers_elements, update_bytes
from tests.unit.planner.jobs import make_config, make_job

JOB = make_job(micro_batches=4)
ELEMENTS = model_elements(JOB.policy, "causal")


def test_one_process_sends_nothing():
    assert update_bytes(JOB, Layout()) == {"tensor": 0, "pipeline": 0, "batch": 0}


def test_a_ring_moves_gradients_twice_less_the_share_that_stays():
    assert update_bytes(JOB, Layout(data=4))["batch"] == 2 * 3 * ELEMENTS * 4 // 4
    # One reduce-scatter of gradients and one gather of weights.
    assert update_bytes(JOB, Layout(sharding=4, sharding_stage=1))["batch"] == 2 * 3 * ELEMENTS * 4 // 4


def test_later_sharding_stages_send_more_often():
    sent = [update_bytes(JOB, Layout(sharding=4, sharding_stage=stage))["batch"] for stage in (1, 2, 3)]
    assert sent == sorted(sent) and len(set(sent)) == 3


def test_tensor_parallelism_sums_hidden_states_four_times_a_layer():
    hidden = JOB.rows_per_batch * JOB.length * JOB.policy.hidden_size * 4
    expected = 4 * JOB.policy.num_hidden_layers * JOB.micro_batches * 2 * hidden * 1 // 2
    assert update_bytes(JOB, Layout(tensor=2))["tensor"] == expected
    again = make_job(micro_batches=4, recompute="full")
    assert update_bytes(again, Layout(tensor=2))["tensor"] == expected * 6 // 4


def test_a_stage_passes_on_hidden_states_of_every_chunk():
    hidden = JOB.rows_per_batch * JOB.length * JOB.policy.hidden_size * 4
    assert update_bytes(JOB, Layout(pipeline=2))["pipeline"] == JOB.micro_batches * hidden
    assert update_bytes(JOB, Layout(pipeline=2, virtual_stages=2))["pipeline"] == 2 * JOB.micro_batches * hidden


def test_stages_wait_less_with_more_micro_batches_and_chunks():
    assert idle_share(JOB, Layout()) == 0
    assert idle_share(JOB, Layout(pipeline=4)) == pytest.approx(3 / 7)
    assert idle_share(JOB, Layout(pipeline=4, virtual_stages=2)) == pytest.approx(3 / 11)


@pytest.mark.parametrize(
    "changes",
    [{"num_key_value_heads": 2}, *({"model_type": family} for family in ("gemma", "gpt2", "opt", "gpt_neox"))],
    ids=str,
)
def test_elements_of_layers_are_those_of_their_matrices(changes):
    config = make_config(**changes)
    parts = Held.of(config, "causal", Layout(), 0).parts
    assert layers_elements(config) == sum(
        p.size for p in parts if p.name.startswith("model.layers.") and len(p.shape) > 1
    )


def test_of_experts_only_the_chosen_are_counted():
    sizes = dict(num_experts=6, num_experts_per_tok=2, moe_intermediate_size=16, shared_expert_intermediate_size=24)
    config = make_config(model_type="qwen2_moe", mlp_only_layers=[1], **sizes)
    parts = Held.of(config, "causal", Layout(), 0).parts
    matrices = [p for p in parts if p.name.startswith("model.layers.") and len(p.shape) > 1]
    left_out = sum(p.size for p in matrices if ".experts." in p.name) * 4 // 6
    switches = sum(p.size for p in matrices if p.name.endswith("shared_expert_gate.weight"))
    assert layers_elements(config) == sum(p.size for p in matrices) - left_out - switches
