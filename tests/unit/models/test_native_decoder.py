"""Whole models with compiled operators against the same models with Paddle's, and against float64."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from alignment.architecture.decoder_config import DecoderConfig
from alignment.models.decoder.decoder import CausalLM
from alignment.models.decoder.initialise import draw_weights
from alignment.models.decoder.logprobs import policy_logprobs
from alignment.ops.native import training_ops
from alignment.ops.native.library import find_core
from alignment.ops.native.selection import use_native_ops
from alignment.records import TokenBatch

SHAPE = dict(
    vocab_size=90,
    hidden_size=48,
    intermediate_size=72,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=128,
)
FAMILIES = {
    "llama": dict(model_type="llama"),
    "mistral": dict(model_type="mistral", sliding_window=20),
    "qwen2": dict(model_type="qwen2", tie_word_embeddings=True),
    "qwen3": dict(model_type="qwen3", head_dim=16),
}
LENGTHS = (70, 2, 31)
DRAWN = np.random.default_rng(0).integers(0, 90, (3, 70))
BATCH = TokenBatch.build(
    [row[:length] for row, length in zip(DRAWN, LENGTHS, strict=True)],
    [range(20, 70), [1], range(5, 31)],
)


@pytest.fixture(autouse=True)
def switch():
    """Every test here needs the library, and leaves the switch as it was."""
    found, reason = find_core()
    if found is None and "no C++ compiler" in reason:
        pytest.skip(reason)
    assert found is not None, reason
    yield
    use_native_ops(False)


def build(family, dtype="float32"):
    model = CausalLM(DecoderConfig.from_dict({**SHAPE, **FAMILIES[family]}), dtype=dtype)
    single = CausalLM(model.config)
    draw_weights(single, seed=3, std=0.2)
    for parameter, drawn in zip(model.parameters(), single.parameters(), strict=True):
        parameter.set_value(drawn.astype(dtype))
    return model


def run(model, *, native, temperature=0.8):
    """Return (log-probs, entropies, gradients by name) of a weighted sum of both."""
    use_native_ops(native)
    logprobs, entropies = policy_logprobs(model, BATCH, temperature=temperature, with_entropy=True)
    weights = paddle.to_tensor(np.random.default_rng(5).standard_normal(BATCH.num_targets)).astype(logprobs.dtype)
    ((logprobs * weights).mean() + 0.1 * entropies.mean()).backward()
    gradients = {name: parameter.grad.numpy().copy() for name, parameter in model.named_parameters()}
    model.clear_gradients()
    return logprobs.numpy(), entropies.numpy(), gradients


def largest_errors(found, exact):
    """Return the largest errors of log-probs, entropies and, relative to each parameter's largest, gradients."""
    gradients = [abs(found[2][name] - exact[2][name]).max() / abs(exact[2][name]).max() for name in exact[2]]
    return np.array([abs(found[0] - exact[0]).max(), abs(found[1] - exact[1]).max(), max(gradients)])


@pytest.mark.parametrize("family", FAMILIES)
def test_log_probs_and_gradients_are_as_good_as_paddles(family):
    exact = run(build(family, "float64"), native=False)
    model = build(family)
    ours, paddles = (largest_errors(run(model, native=native), exact) for native in (True, False))
    assert (ours < 1e-4).all()
    assert (ours < 4 * paddles + 1e-6).all()


@pytest.mark.parametrize("granularity", ["full", "full_attn", "core_attn"])
def test_recomputation_changes_no_bit(granularity):
    model = build("llama")
    model.train()
    plain = run(model, native=True)
    model.model.recompute, model.model.recompute_granularity = True, granularity
    again = run(model, native=True)
    assert np.array_equal(plain[0], again[0])
    for name, gradient in plain[2].items():
        np.testing.assert_array_equal(gradient, again[2][name])


def test_the_kernels_run_when_they_are_on_and_only_then(monkeypatch):
    calls = []
    call = training_ops._call
    monkeypatch.setattr(training_ops, "_call", lambda name, *rest: (calls.append(name), call(name, *rest)))
    model = build("qwen3")
    run(model, native=False)
    assert not calls
    run(model, native=True)
    counts = {name: calls.count(name) for name in calls}
    layers, norms = 3, 3 * 4 + 1
    kinds = ("rms_norm", norms), ("swiglu", layers), ("attention", layers), ("logprobs", 1)
    assert counts == {f"ac_{kind}_{way}": count for kind, count in kinds for way in ("forward", "backward")}


def test_the_same_input_gives_the_same_bits():
    model = build("llama")
    first, second = run(model, native=True), run(model, native=True)
    assert np.array_equal(first[0], second[0]) and np.array_equal(first[1], second[1])
    assert all(np.array_equal(first[2][name], second[2][name]) for name in first[2])
