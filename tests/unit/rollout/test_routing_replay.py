"""Routing replay: the experts that engines record, and a policy that is scored and trained with them."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import paddle
import pytest

from alignment.generation.eager.eager_engine import EagerEngine
from alignment.generation.engine import GenerationOptions
from alignment.generation.fused.fused_engine import FusedEngine
from alignment.generation.fused.fused_settings import FusedSettings
from alignment.loops.rollout_ahead import RolloutAhead, Sampled
from alignment.models.decoder.logprobs import policy_logprobs
from alignment.models.decoder.replay import ExpertReplay
from alignment.ops.native.library import find_core
from alignment.parallel.dense import DenseRunner
from alignment.records import NO_EXPERT, TokenBatch
from alignment.rollout.collector import Collector
from alignment.rollout.forward import measure_logprobs
from alignment.rollout.gate import measure_gap
from alignment.rollout.minibatches import token_batch
from tests.unit.ops.core_models import build

LENGTHS, ANSWER = (9, 2, 40, 17), 12
NOTHING = NO_EXPERT["uint8"]


@pytest.fixture(scope="module")
def model():
    made = build("qwen2_moe", mlp_only_layers=[])
    made.eval()
    return made


def engine_of(model, kind):
    if kind == "eager":
        engine = EagerEngine(model, max_batch_rows=5)
    elif find_core().core is None:
        pytest.skip(find_core().reason)
    else:
        own = {
            "few blocks": {"block_tokens": 16, "kv_memory": 5 * 16 * 3 * 2 * 2 * 16 * 4},
            "drafts": {"speculative_tokens": 3},
            "bfloat16": {"weight_type": "bfloat16"},
        }
        engine = FusedEngine(model, FusedSettings(num_slots=4, max_length=64, max_rows=13, **own.get(kind, {})))
    engine.load_weights(None, 0)
    return engine


def collect(model, kind="fused"):
    draw = np.random.default_rng(3)
    ids = [np.tile(draw.integers(0, 83, 5), 8)[:length] for length in LENGTHS]
    engine = engine_of(model, kind)
    chosen = GenerationOptions(max_new_tokens=ANSWER, temperature=0.05 if kind == "drafts" else 0.7)
    collector = Collector(engine, chosen, num_return_sequences=3, seed=1, records_experts=True)
    rollout = collector.collect([{"input_ids": row, "raw_input": ""} for row in ids], policy_version=0)
    return rollout, engine


def score(model, rollout, *, replays):
    model.model.replay = ExpertReplay() if replays else None
    try:
        grids = measure_logprobs(DenseRunner(model), rollout, rows_per_batch=5, temperature=0.7, replays=replays)
        return grids[0], model.model.replay
    finally:
        model.model.replay = None


@pytest.mark.parametrize("kind", ["eager", "fused", "few blocks", "drafts"])
def test_every_engine_records_what_the_trainer_would_choose(model, kind):
    rollout, engine = collect(model, kind)
    if kind == "few blocks":
        assert engine.counts.preemptions
    if kind == "drafts":
        assert engine.counts.drafted > engine.counts.accepted > 0
    for prompt, response, experts in zip(rollout.prompts, rollout.responses, rollout.routed_experts, strict=True):
        assert experts.shape == (len(prompt) + len(response), 3, 3) and experts.dtype == np.uint8
        known = experts != NOTHING
        assert not known[-1].any() and known[:-1, :2].all() and known[len(prompt) - 1 : -1].all()
        assert experts[known].max() < 5
    plain, _ = score(model, rollout, replays=False)
    replayed, replay = score(model, rollout, replays=True)
    assert replay.mismatch() == 0.0
    tokens = sum(len(experts) - 1 for experts in rollout.routed_experts)
    predicting = int(rollout.response_lengths.sum())
    assert replay._compared == 2 * tokens + predicting, "of the last layer only tokens that predict are computed"
    assert np.array_equal(plain, replayed)


def test_with_narrow_weights_the_gap_is_not_that_of_other_experts():
    model = build("mixtral", num_hidden_layers=4)
    model.eval()
    rollout, _ = collect(model, "bfloat16")
    gaps = []
    for replays in (False, True):
        found, replay = score(model, rollout, replays=replays)
        gaps.append(measure_gap(rollout.with_fields(old_logprobs=found)).p99)
    assert gaps[0] > 3 * gaps[1], gaps
    assert 0 < replay.mismatch() < 0.1


def batch_of(rollout, rows=(0, 3, 5)):
    return token_batch(rollout, np.array(rows))


def loss_of(model, batch, *, replay):
    model.model.replay = replay
    logprobs, _ = policy_logprobs(model, batch, temperature=1.0, with_entropy=False)
    return (logprobs * paddle.linspace(-1.0, 1.0, logprobs.shape[0])).sum()


def gradients(model, batch, *, replay, recomputed=False):
    model.train()
    model.model.recompute = recomputed
    model.clear_gradients()
    loss_of(model, batch, replay=replay).backward()
    found = {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}
    model.model.recompute, model.model.replay = False, None
    model.eval()
    return found


def moved(batch):
    """Return ``batch`` with the next of the five experts in the place of each recorded one."""
    experts = batch.routed_experts
    return replace(batch, routed_experts=np.where(experts == NOTHING, experts, (experts + 1) % 5))


def test_the_same_choices_give_the_same_gradients_and_others_the_gradient_of_the_replayed_pass(model):
    batch = batch_of(collect(model)[0])
    plain = gradients(model, replace(batch, routed_experts=None), replay=ExpertReplay())
    for same in (batch, replace(batch, routed_experts=np.full_like(batch.routed_experts, NOTHING))):
        found = gradients(model, same, replay=ExpertReplay())
        assert plain.keys() == found.keys() and all(np.array_equal(plain[name], found[name]) for name in plain)
    ignored = gradients(model, moved(batch), replay=None)
    assert all(np.array_equal(plain[name], ignored[name]) for name in plain), "a critic chooses by itself"
    replay = ExpertReplay()
    others = gradients(model, moved(batch), replay=replay)
    assert replay.mismatch() is None, "training passes are not counted"
    again = gradients(model, moved(batch), replay=ExpertReplay(), recomputed=True)
    assert all(np.array_equal(others[name], again[name]) for name in others)
    assert max(np.abs(others[name] - plain[name]).max() for name in plain) > 1e-2


def test_the_router_gets_the_gradient_of_the_weights_of_the_replayed_experts(model):
    batch = moved(batch_of(collect(model)[0]))
    name = "model.layers.1.mlp.gate.weight"
    router = dict(model.named_parameters())[name]
    slope = gradients(model, batch, replay=ExpertReplay())[name]
    direction = np.random.default_rng(0).normal(size=slope.shape).astype(np.float32)
    before, step, losses = router.numpy(), 1e-2, []
    for sign in (1, -1):
        router.set_value(before + sign * step * direction)
        with paddle.no_grad():
            losses.append(float(loss_of(model, batch, replay=ExpertReplay())))
    router.set_value(before)
    model.model.replay = None
    assert (losses[0] - losses[1]) / (2 * step) == pytest.approx(float((slope * direction).sum()), rel=2e-2)


def test_others_are_counted_and_fillers_are_not(model):
    batch = moved(batch_of(collect(model)[0], rows=(0,)))
    replay = ExpertReplay()
    with paddle.no_grad():
        loss_of(model, batch, replay=replay)
        share, compared = replay.mismatch(), replay._compared
        replay.is_filler = True
        loss_of(model, batch, replay=replay)
    assert 0.5 < share <= 1.0 and replay._compared == compared
    replay.clear()
    assert replay.mismatch() is None
    model.model.replay = None


def test_a_rollout_in_hand_keeps_its_choices_in_a_checkpoint(model):
    rollout, _ = collect(model)
    held = RolloutAhead(is_on=True, in_hand=Sampled(rollout, None, False))
    resumed = RolloutAhead(is_on=True)
    resumed.load_state(json.loads(json.dumps(held.state())))
    for one, other in zip(rollout.routed_experts, resumed.in_hand.rollout.routed_experts, strict=True):
        assert np.array_equal(one, other) and one.dtype == other.dtype
    state = held.state()
    del state["rollout"]["routed_experts"]  # as written before choices were recorded
    resumed.load_state(state)
    assert resumed.in_hand.rollout.routed_experts == ()


def test_greedy_baselines_record_nothing(model):
    engine = engine_of(model, "eager")
    options = GenerationOptions(max_new_tokens=2)
    collector = Collector(engine, options, num_return_sequences=1, seed=1, records_experts=True)
    assert collector.collect_greedy([{"input_ids": [1, 2], "raw_input": ""}], policy_version=0).routed_experts == ()


def test_rows_without_experts_stay_without():
    assert TokenBatch.build([np.array([1, 2])], [np.array([1])]).routed_experts is None
