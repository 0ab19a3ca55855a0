"""Phases: weights and optimizer state by the number, what moves to the host, and that sharing never costs more."""

from __future__ import annotations

import itertools

import pytest

from alignment.architecture.layout import Layout
from alignment.planner.counts.shapes import model_elements
from alignment.planner.job import ON_POLICY_PHASES as PHASES
from alignment.planner.memory import COMPONENTS, phase_memory
from tests.unit.planner.jobs import make_config, make_job

BIG = {"hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 8, "vocab_size": 8000}
POLICY = model_elements(make_config(), "causal")
CRITIC = model_elements(make_config(), "score")


def on_device(moment):
    return moment.on_device


def everywhere(moment):
    return moment.everywhere


def peaks(job, layout, measure=on_device):
    return {phase: measure(moment) for phase, moment in phase_memory(job, layout, measure).items()}


def big_job(**changes):
    config = make_config(**BIG)
    return make_job(policy=config, critic=config, reward=config, **changes)


def test_one_process_holds_four_models_and_two_moments_of_the_trained_ones():
    for moment in phase_memory(make_job(), Layout(), on_device).values():
        assert moment.device["policy weights"] == moment.device["reference weights"] == POLICY * 4
        assert moment.device["critic weights"] == moment.device["reward weights"] == CRITIC * 4
        assert moment.device["optimizer"] == (POLICY + CRITIC) * 8
        assert not moment.host.get("offloaded")
        assert set(moment.device) | set(moment.host) <= set(COMPONENTS)


def test_half_precision_weights_have_masters_and_float32_gradients():
    update = phase_memory(make_job(half=True), Layout(), on_device)["update"].device
    assert update["policy weights"] == POLICY * 2
    assert update["optimizer"] == (POLICY + CRITIC) * 12
    assert update["gradients"] == POLICY * 4


def test_sharding_stages_cut_optimizer_gradients_and_weights_in_turn():
    def sizes(stage):
        moments = phase_memory(big_job(), Layout(sharding=4, sharding_stage=stage), on_device)
        return moments["score"].device["policy weights"], moments["score"].device["optimizer"]

    whole = phase_memory(big_job(), Layout(data=4), on_device)["score"].device
    weights, moments = whole["policy weights"], whole["optimizer"]
    # Stages 1 and 2 update float32 copies of the rows: 12 bytes a number in place of 8.
    assert sizes(1) == sizes(2) == (weights, pytest.approx(moments * 12 / 8 / 4, rel=0.01))
    assert sizes(3) == (pytest.approx(weights / 4, rel=0.01), pytest.approx(moments / 4, rel=0.01))


def test_without_a_reward_model_there_are_three():
    assert "reward weights" not in phase_memory(make_job(reward=None), Layout(), on_device)["score"].device


def test_a_critic_of_another_shape_counts_as_itself():
    large = make_config(hidden_size=256, intermediate_size=512)
    moment = phase_memory(make_job(critic=large), Layout(), on_device)["update"]
    assert moment.device["critic weights"] == model_elements(large, "score") * 4
    assert moment.name.startswith("critic")


def test_what_is_offloaded_is_on_the_host_and_comes_when_it_is_used():
    plain = phase_memory(make_job(), Layout(), on_device)
    job = make_job(offloaded=frozenset({"freeze_model", "optimizer", "train_model"}))
    moved = phase_memory(job, Layout(), on_device)
    assert moved["rollout"].device["policy weights"] == POLICY * 4
    assert not {"critic weights", "reference weights", "optimizer"} & set(moved["rollout"].device)
    assert moved["rollout"].host["offloaded"] == (POLICY + 2 * CRITIC) * 4 + (POLICY + CRITIC) * 8
    assert all(moved[phase].on_device < plain[phase].on_device for phase in PHASES)
    assert len([name for name in moved["score"].device if name.endswith(" weights")]) == 1


def test_offloading_in_host_memory_needs_the_copies_of_a_move():
    job, plain = big_job(offloaded=frozenset({"optimizer"})), big_job()
    moved = phase_memory(job, Layout(), everywhere)["update"]
    assert moved.name == "policy optimizer reloaded"
    assert moved.everywhere > peaks(plain, Layout(), everywhere)["update"]
    assert peaks(job, Layout())["update"] < peaks(plain, Layout())["update"]


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_more_sharding_never_needs_more(stage, half, phase):
    layouts = [Layout(sharding=n, sharding_stage=stage) for n in (2, 4, 8, 16)]
    sizes = [peaks(big_job(half=half), layout)[phase] for layout in layouts]
    assert all(more >= less for more, less in itertools.pairwise(sizes))


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("half", [False, True])
def test_more_tensor_parallelism_never_needs_more(half, phase):
    sizes = [peaks(big_job(half=half), Layout(tensor=n))[phase] for n in (2, 4, 8)]
    assert all(more >= less for more, less in itertools.pairwise(sizes))


@pytest.mark.parametrize("name", ["length", "rows_per_batch", "logprob_rows", "iteration_rows"])
@pytest.mark.parametrize(
    "layout", [Layout(), Layout(tensor=2), Layout(pipeline=4), Layout(sharding=2, sharding_stage=3)]
)
def test_longer_and_larger_batches_never_need_less(layout, name):
    sizes = {"length": 256, "response": 64, "rows_per_batch": 8, "logprob_rows": 32, "iteration_rows": 64}
    larger = {**sizes, name: 2 * sizes[name]}
    job, larger = big_job(**sizes), big_job(**larger)
    before, after = peaks(job, layout), peaks(larger, layout)
    assert all(after[phase] >= before[phase] for phase in PHASES)
    assert after != before


def test_compiled_operators_need_less_on_the_device_and_working_memory_on_the_host():
    sizes = {"length": 256, "response": 64, "rows_per_batch": 8}
    plain, native = (phase_memory(big_job(**sizes, native=flag), Layout(), on_device) for flag in (False, True))
    assert all(native[phase].on_device < plain[phase].on_device for phase in PHASES)
    assert all(native[phase].host["scratch"] > 0 and "scratch" not in plain[phase].host for phase in PHASES)
    both = phase_memory(big_job(**sizes, native=True, fused=True), Layout(), on_device)["update"].host["scratch"]
    engine = phase_memory(big_job(**sizes, fused=True), Layout(), on_device)["update"].host["scratch"]
    assert both == engine + native["update"].host["scratch"]


def test_recomputing_needs_less_in_the_update_alone():
    job = big_job(length=512, response=64)
    again = big_job(length=512, response=64, recompute="full", critic_recompute="full")
    before, after = peaks(job, Layout()), peaks(again, Layout())
    assert after["update"] < before["update"]
    assert (after["rollout"], after["score"]) == (before["rollout"], before["score"])


def test_early_stages_hold_several_micro_batches():
    def activations(micro_batches):
        job = big_job(micro_batches=micro_batches, length=512, response=64)
        return phase_memory(job, Layout(pipeline=4), on_device)["update"].device["activations"]

    assert activations(1) < activations(2) < activations(4) == activations(8)


def test_ptx_rows_need_logits_of_whole_sequences():
    job, ptx = (make_job(policy=make_config(vocab_size=30_000), length=256, with_ptx=flag) for flag in (False, True))
    assert peaks(ptx, Layout())["update"] > peaks(job, Layout())["update"]
    assert peaks(ptx, Layout())["score"] == peaks(job, Layout())["score"]


@pytest.mark.parametrize("has_reference", [True, False])
def test_models_that_an_algorithm_does_not_need_take_nothing(has_reference):
    job = make_job(critic=None, has_reference=has_reference)
    for moment in phase_memory(job, Layout(), on_device).values():
        assert "critic weights" not in moment.device and not moment.name.startswith("critic")
        assert moment.device.get("reference weights", 0) == has_reference * POLICY * 4
        assert moment.device["optimizer"] == POLICY * 8


@pytest.mark.parametrize("offloaded", [(), ("freeze_model", "optimizer", "train_model")])
@pytest.mark.parametrize("stage", [1, 3])
def test_a_run_without_critic_and_reference_needs_less_in_every_phase(stage, offloaded):
    layout = Layout(tensor=2, pipeline=2, sharding=2, sharding_stage=stage)
    config = make_config(**BIG)
    models = {"policy": config, "critic": None, "reward": config, "offloaded": frozenset(offloaded)}
    lean = peaks(make_job(**models, has_reference=False), layout, everywhere)
    full = peaks(big_job(offloaded=frozenset(offloaded)), layout, everywhere)
    assert all(0 < lean[phase] < full[phase] for phase in PHASES)


def test_an_average_of_the_policy_takes_four_bytes_a_number_of_the_host():
    for half in (False, True):
        for moment in phase_memory(make_job(keeps_average=True, half=half), Layout(), on_device).values():
            assert moment.host["averaged weights"] == POLICY * 4
    sharded = Layout(sharding=4, sharding_stage=3)
    moment = phase_memory(big_job(keeps_average=True), sharded, everywhere)["update"]
    assert moment.host["averaged weights"] == moment.device["policy weights"], "in stage 3 the rows of this process"


def test_several_reward_models_are_counted_together_each_with_its_own_rows():
    one, other = make_config(), make_config(hidden_size=128, num_attention_heads=8)
    alone = [phase_memory(make_job(reward=config), Layout(), on_device)["score"] for config in (one, other)]
    job = make_job(reward=None, other_rewards={"reward-a": one, "reward-b": other}, source_rows={"reward-b": 64})
    together = phase_memory(job, Layout(), on_device)["score"]
    assert together.device["reward weights"] == sum(moment.device["reward weights"] for moment in alone)
    assert together.name == "reward-b forward", "it has the largest batch"
    offloaded = make_job(reward=None, other_rewards=dict(job.other_rewards), offloaded=frozenset({"freeze_model"}))
    assert phase_memory(offloaded, Layout(), on_device)["update"].device.get("reward weights", 0) == 0
