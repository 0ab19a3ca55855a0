"""Bytes of activations against what Paddle's allocator gave out for real passes."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle.base import core

from alignment.models.decoder import CausalLM
from alignment.models.initialise import draw_weights
from alignment.models.logprobs import policy_logprobs, token_values
from alignment.models.score_model import ScoreModel, ScoreOptions
from alignment.ops import attention, token_logprobs
from alignment.planner import activations
from alignment.planner.activations import Head, Pass
from alignment.records import TokenBatch
from tests.unit.planner.jobs import make_config

ROWS, LENGTH, RESPONSE = 3, 160, 48


class Allocated:
    """Peak of what Paddle gave out since this was made."""

    def __init__(self):
        self._before = core.host_memory_stat_current_value("Allocated", 0)
        core.host_memory_stat_reset_peak_value("Allocated", 0)

    def peak(self):
        return core.host_memory_stat_peak_value("Allocated", 0) - self._before


def full_batch(length=LENGTH):
    generator = np.random.default_rng(0)
    rows = [generator.integers(3, 500, length) for _ in range(ROWS)]
    return TokenBatch.build(rows, [np.arange(length - RESPONSE, length)] * ROWS)


def build(config, kind):
    model = CausalLM(config) if kind == "policy" else ScoreModel(config, ScoreOptions())
    draw_weights(model, seed=1, std=0.02)
    return model


def read(model, kind, batch):
    if kind == "critic":
        return token_values(model, batch)
    return policy_logprobs(model, batch, temperature=1.0, with_entropy=False)[0]


def one_pass(config, *, length=LENGTH, recompute=""):
    return Pass(
        config=config,
        rows=ROWS,
        length=length,
        tensor=1,
        sequence_parallel=False,
        item=4,
        recompute=recompute,
    )


def measure_training(model, kind, batch):
    """Return the peak of a second micro-batch, gradients excepted."""
    model.train()
    read(model, kind, batch).sum().backward()
    allocated = Allocated()
    read(model, kind, batch).sum().backward()
    return allocated.peak()


# Wide enough for what grows with the tokens alone to be small.
WIDE = {"hidden_size": 128, "intermediate_size": 352, "vocab_size": 512}
SHAPES = {
    "llama": WIDE,
    "one key head": {**WIDE, "num_key_value_heads": 1},
    "qwen2": {**WIDE, "model_type": "qwen2"},
    "qwen3": {**WIDE, "model_type": "qwen3", "head_dim": 32},
    "wide feed-forward": {**WIDE, "intermediate_size": 1408},
}


@pytest.mark.parametrize("recompute", ["", "full", "full_attn", "core_attn"])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_training_pass_needs_what_is_counted(shape, recompute):
    config = make_config(**SHAPES[shape])
    model = build(config, "critic")
    model.model.recompute, model.model.recompute_granularity = bool(recompute), recompute or "full"
    step = one_pass(config, recompute=recompute)
    matrix = config.hidden_size * config.intermediate_size * 4
    expected = step.kept(4) + max(step.going_back, step.making_gradient(matrix, matrix))
    assert measure_training(model, "critic", full_batch()) == pytest.approx(expected, rel=0.02)


def test_attention_in_pieces_needs_what_is_counted(monkeypatch):
    config = make_config(**WIDE)
    for module, name in ((attention, "_SCORE_BYTES"), (activations, "PIECE_BYTES")):
        monkeypatch.setattr(module, name, 1 << 20)
    step = one_pass(config, length=400)
    measured = measure_training(build(config, "critic"), "critic", full_batch(400))
    assert measured == pytest.approx(step.kept(4) + step.going_back, rel=0.03)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_pass_without_gradients_needs_what_is_counted(shape):
    config = make_config(**SHAPES[shape])
    model, batch = build(config, "critic"), full_batch()
    model.eval()
    with paddle.no_grad():
        allocated = Allocated()
        read(model, "critic", batch)
    assert allocated.peak() == pytest.approx(one_pass(config).forward_only, rel=0.08)


@pytest.mark.parametrize("piece_bytes", [64 << 20, 8 << 20], ids=["at once", "in pieces"])
def test_the_head_needs_what_is_counted(piece_bytes, monkeypatch):
    for module, name in ((token_logprobs, "_LOGIT_BYTES"), (activations, "PIECE_BYTES")):
        monkeypatch.setattr(module, name, piece_bytes)
    # Three pieces of the same size.
    config = make_config(vocab_size=43_690, num_hidden_layers=1)
    step = one_pass(config)
    head = Head(config=config, targets=ROWS * RESPONSE, tensor=1, item=4, is_scaled=False)
    assert head.in_pieces == (piece_bytes < 64 << 20)
    gradient = head.weight * 4 * (2 if head.in_pieces else 1)
    going_back = max(head.logits_back(with_entropy=False), head.weight_back + gradient) + step.norm_input
    expected = step.kept(1) + max(going_back, step.going_back)
    model, batch = build(config, "policy"), full_batch()
    assert measure_training(model, "policy", batch) == pytest.approx(expected, rel=0.06)
    model.eval()
    with paddle.no_grad():
        allocated = Allocated()
        policy_logprobs(model, batch, temperature=1.0, with_entropy=True)
    assert allocated.peak() == pytest.approx(head.forward_only(with_entropy=True), rel=0.02)


def test_pieces_are_as_large_as_those_of_the_operators():
    assert activations.PIECE_BYTES == attention._SCORE_BYTES == token_logprobs._LOGIT_BYTES


def test_sequence_parallelism_and_recomputing_keep_less():
    config = make_config()
    plain = Pass(config=config, rows=2, length=64, tensor=4, sequence_parallel=False, item=2)
    split = Pass(config=config, rows=2, length=64, tensor=4, sequence_parallel=True, item=2)
    assert split.boundary * 4 == plain.boundary and split.kept_by_layer < plain.kept_by_layer
    kept = [
        Pass(config=config, rows=2, length=64, tensor=1, sequence_parallel=False, item=4, recompute=r).kept_by_layer
        for r in ("", "core_attn", "full_attn", "full")
    ]
    assert kept == sorted(kept, reverse=True) and len(set(kept)) == 4
