"""Bytes of activations against what Paddle's allocator gave out for real passes, with both sets of operators."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle.base import core

from alignment.architecture.decoder_config import DecoderConfig
from alignment.architecture.families import FAMILIES
from alignment.generation.eager.decoder_weights import sort_weights
from alignment.generation.eager.forward import DecoderForward
from alignment.generation.eager.kv_cache import KVCache
from alignment.models.decoder.decoder import CausalLM
from alignment.models.decoder.initialise import draw_weights
from alignment.models.decoder.logprobs import policy_logprobs, token_values
from alignment.models.decoder.score_model import ScoreModel, ScoreOptions
from alignment.ops import pieces
from alignment.ops.native.library import find_core
from alignment.ops.native.selection import native_ops_enabled, use_native_ops
from alignment.ops.rotary import PositionTables
from alignment.planner.counts.activations import Pass
from alignment.planner.counts.head import Head, NativeHead
from alignment.records import TokenBatch
from tests.unit.planner.jobs import SHAPE, make_config

ROWS, LENGTH, RESPONSE = 3, 160, 48


@pytest.fixture(params=[False, True], ids=["paddle", "native"])
def native(request):
    """Run the test with Paddle's operators and with the compiled ones, and leave the switch as it was."""
    if request.param and find_core().core is None:
        pytest.skip(find_core().reason)
    use_native_ops(request.param)
    assert native_ops_enabled() == request.param
    yield request.param
    use_native_ops(False)


class Allocated:
    """Peak of what Paddle gave out since this was made."""

    def __init__(self):
        self._before = core.host_memory_stat_current_value("Allocated", 0)
        core.host_memory_stat_reset_peak_value("Allocated", 0)

    def peak(self):
        return core.host_memory_stat_peak_value("Allocated", 0) - self._before


def full_batch(length=LENGTH, response=RESPONSE):
    generator = np.random.default_rng(0)
    rows = [generator.integers(3, 500, length) for _ in range(ROWS)]
    return TokenBatch.build(rows, [np.arange(length - response, length)] * ROWS)


def build(config, kind):
    model = CausalLM(config) if kind == "policy" else ScoreModel(config, ScoreOptions())
    draw_weights(model, seed=1, std=0.02)
    return model


def policy_loss(model, batch, **options):
    """Return a loss whose entropy comes first and whose log-probs go through more on their way, as in PPO."""
    logprobs, entropies = policy_logprobs(model, batch, **options)
    loss = (2.0 * logprobs).exp().mean()
    return loss if entropies is None else -0.1 * entropies.mean() + loss


def one_pass(config, *, native, length=LENGTH, recompute=""):
    return Pass(
        config=config,
        rows=ROWS,
        length=length,
        tensor=1,
        sequence_parallel=False,
        item=4,
        native=native,
        recompute=recompute,
    )


def measure_training(model, compute_loss):
    """Return the peak of a second micro-batch, gradients excepted."""
    model.train()
    compute_loss().backward()
    allocated = Allocated()
    compute_loss().backward()
    return allocated.peak()


def measure_critic(config, *, length=LENGTH, recompute="", response):
    """Return the peak where the values of ``response`` tokens are read."""
    model, batch = build(config, "critic"), full_batch(length, response=response)
    model.model.recompute, model.model.recompute_granularity = bool(recompute), recompute or "full"
    return measure_training(model, lambda: token_values(model, batch).sum())


def needed_by_critic(step, response):
    """Return the peak that is counted, in the last layer or in the one before; ``response`` tokens are read."""
    last, matrix = step.last(response), step.config.hidden_size * step.config.intermediate_size * 4
    backward = [
        kept + max(layer.going_back, layer.making_gradient(matrix, matrix))
        for layer, kept in ((last, last.kept), (step, 0))
    ]
    return step.kept(3) + max(backward)


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
def test_a_training_pass_needs_what_is_counted(shape, recompute, native):
    config = make_config(**SHAPES[shape])
    step = one_pass(config, native=native, recompute=recompute)
    measured = measure_critic(config, recompute=recompute, response=RESPONSE)
    assert measured == pytest.approx(needed_by_critic(step, RESPONSE), rel=0.01)


@pytest.mark.parametrize("family", ["gemma", "gpt2", "opt", "falcon", "glm4"])
def test_other_activations_blocks_and_norms_are_counted(family):
    table = FAMILIES[family]
    sizes = {**SHAPE, **WIDE, "head_dim": 16, "partial_rotary_factor": table.partial_rotary_factor}
    config = DecoderConfig.from_dict({**{table.key(key): size for key, size in sizes.items()}, "model_type": family})
    step = one_pass(config, native=False)
    assert measure_critic(config, response=RESPONSE) == pytest.approx(needed_by_critic(step, RESPONSE), rel=0.01)


@pytest.mark.parametrize("response", [1, LENGTH - 1])
def test_a_last_layer_needs_what_is_counted_for_the_tokens_that_are_read(response, native):
    config = make_config(**WIDE)
    step = one_pass(config, native=native)
    assert measure_critic(config, response=response) == pytest.approx(needed_by_critic(step, response), rel=0.01)


def test_attention_of_many_scores_needs_what_is_counted(native, monkeypatch):
    config = make_config(**WIDE)
    monkeypatch.setattr(pieces, "SCORE_BYTES", 1 << 20)
    step = one_pass(config, native=native, length=400)
    for response in (RESPONSE, 399):
        measured = measure_critic(config, length=400, response=response)
        assert measured == pytest.approx(needed_by_critic(step, response), rel=0.03), response


@pytest.mark.parametrize("shape", SHAPES)
def test_a_pass_without_gradients_needs_what_is_counted(shape, native):
    config = make_config(**SHAPES[shape])
    model, batch = build(config, "critic"), full_batch()
    model.eval()
    with paddle.no_grad():
        token_values(model, batch)  # makes the rotary tables, which stay
        allocated = Allocated()
        token_values(model, batch)
    # What is left out: the output of head norms (7.9 % here), and the mark of scores that are not finite (0.2 %).
    assert allocated.peak() == pytest.approx(one_pass(config, native=native).last(RESPONSE).forward_only, rel=0.085)


@pytest.mark.parametrize("shape", SHAPES)
def test_reading_prompts_needs_what_is_counted(shape, native):
    config = make_config(**SHAPES[shape])
    weights = sort_weights(build(config, "policy").state_dict().items(), config)
    engine = DecoderForward(config, weights, PositionTables(*config.rotary_frequencies()))
    prompts = [row[:LENGTH] for row in full_batch().input_ids]
    with paddle.no_grad():
        cache = KVCache(engine.cache_shape, np.full(ROWS, LENGTH), max_length=LENGTH)
        engine.prompt_tokens(prompts, range(ROWS), cache)  # makes the rotary tables, which stay
        allocated = Allocated()
        engine.run(engine.prompt_tokens(prompts, range(ROWS), cache), 0, None)
    assert allocated.peak() == pytest.approx(one_pass(config, native=native).generating, rel=0.01)


@pytest.mark.parametrize("piece_bytes", [64 << 20, 8 << 20], ids=["at once", "in pieces"])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("with_entropy", [False, True])
def test_the_head_needs_what_is_counted(piece_bytes, with_entropy, temperature, native, monkeypatch):
    monkeypatch.setattr(pieces, "LOGIT_BYTES", piece_bytes)
    # Three pieces of the same size.
    config = make_config(vocab_size=43_690, num_hidden_layers=1)
    step = one_pass(config, native=native)
    kind = NativeHead if native else Head
    head = kind(config=config, targets=ROWS * RESPONSE, tensor=1, item=4, is_scaled=temperature != 1.0)
    assert head.in_pieces == (piece_bytes < 64 << 20)
    going_back = max(head.logits_back(with_entropy=with_entropy), head.weight_back) + step.norm_input
    expected = step.kept(1) + max(going_back, step.going_back)
    model, batch = build(config, "policy"), full_batch()
    options = {"temperature": temperature, "with_entropy": with_entropy}
    assert measure_training(model, lambda: policy_loss(model, batch, **options)) == pytest.approx(expected, rel=0.06)
    model.eval()
    with paddle.no_grad():
        allocated = Allocated()
        policy_logprobs(model, batch, **options)
    assert allocated.peak() == pytest.approx(head.forward_only(with_entropy=with_entropy), rel=0.02)


def test_threads_of_compiled_operators_have_their_own_working_memory():
    native, paddles = (one_pass(make_config(), native=flag) for flag in (True, False))
    one = native.scratch(1)
    assert one == LENGTH * (5 * 8 + 2 * 48) * 4
    assert (native.scratch(3), paddles.scratch(3)) == (3 * one, 0)
    # A thread takes one of four key heads of one of three rows.
    assert native.scratch(100) == 12 * one


def test_a_tile_of_queries_is_that_of_the_compiled_operators(repo_root):
    assert f"QUERY_TILE = {pieces.QUERY_TILE};" in (repo_root / "csrc/core/training_kernels.h").read_text()


def test_half_precision_uses_flash_attention_whatever_the_window():
    sizes = dict(rows=2, length=64, item=2, tensor=1, sequence_parallel=False)
    configs = [make_config(model_type="mistral", sliding_window=window) for window in (8, None)]
    assert [config.sliding_window for config in configs] == [8, None]
    windowed, whole = (Pass(config=config, **sizes) for config in configs)
    assert (windowed.kept(4), windowed.scratch(1)) == (whole.kept(4), whole.scratch(1))


def test_sequence_parallelism_keeps_less():
    config = make_config()
    plain = Pass(config=config, rows=2, length=64, tensor=4, sequence_parallel=False, item=2)
    split = Pass(config=config, rows=2, length=64, tensor=4, sequence_parallel=True, item=2)
    assert split.boundary * 4 == plain.boundary and split.kept_by_layer < plain.kept_by_layer


@pytest.mark.parametrize(("native", "sizes"), [(False, 4), (True, 3)])
def test_recomputing_more_keeps_less(native, sizes):
    steps = [one_pass(make_config(), native=native, recompute=kind) for kind in ("", "core_attn", "full_attn", "full")]
    kept = [step.kept_by_layer for step in steps]
    # Compiled operators have no attention weights to compute again.
    assert kept == sorted(kept, reverse=True) and len(set(kept)) == sizes
