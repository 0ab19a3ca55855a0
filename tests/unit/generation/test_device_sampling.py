"""Draws on the device, here a CPU: those of the host, token for token, and nothing that grows with V comes back."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from alignment.architecture.decoder_config import DecoderConfig
from alignment.errors import NotFiniteError
from alignment.generation.device_sampling import DeviceSampler
from alignment.generation.eager.eager_engine import EagerEngine
from alignment.generation.engine import GenerationOptions
from alignment.generation.random_numbers import uniform
from alignment.generation.sampling import Sampler
from alignment.models.decoder.decoder import CausalLM
from alignment.models.decoder.initialise import draw_weights
from alignment.ops import device_kernels

ROWS, VOCAB, STEPS = 6, 700, 12
OPTIONS = {
    "plain": {},
    "temperature": {"temperature": 0.7},
    "top-k": {"top_k": 5},
    "top-k of all": {"top_k": 5000},
    "top-p": {"top_p": 0.8},
    "both": {"top_k": 50, "top_p": 0.6, "temperature": 1.3},
    "very small top-p": {"top_p": 1e-9},
    "penalty": {"repetition_penalty": 1.7, "top_p": 0.9},
    "greedy": {"do_sample": False},
    "greedy with a penalty": {"do_sample": False, "repetition_penalty": 3.0, "temperature": 0.5},
    "late stop": {"min_new_tokens": 5, "stop_token_ids": tuple(range(0, VOCAB, 2))},
}


def samplers(options, *, usable=None):
    """Return the host's and the device's sampler of the same rows."""
    prompts = [np.arange(row, row + 5) for row in range(ROWS)]
    uniforms = uniform(3, np.arange(ROWS)[:, None], np.arange(STEPS))
    limits = {"vocab_size": VOCAB, "usable_vocab_size": usable}
    given = GenerationOptions(max_new_tokens=STEPS, **options), prompts, uniforms
    return Sampler(*given, **limits), DeviceSampler(*given, **limits)


def logits_of(step, *, rows=ROWS, spread=3.0):
    values = np.random.default_rng([step, rows]).standard_normal((rows, VOCAB)) * spread
    return np.round(values, 1).astype(np.float32)  # many ties


@pytest.mark.parametrize("usable", [None, 650, 1])
@pytest.mark.parametrize("name", OPTIONS)
def test_the_same_tokens_as_on_the_host(name, usable):
    host, device = samplers(OPTIONS[name], usable=usable if name != "late stop" else None)
    rows = np.arange(ROWS)
    for step in range(STEPS):
        if step == 4:
            kept = np.array([0, 2, 3])
            rows = rows[kept]
            host.keep(kept)
            device.keep(kept)
        logits = logits_of(step, rows=len(rows))
        wanted, wanted_logprobs = host.draw(logits, step)
        tokens, logprobs = device.draw(paddle.to_tensor(logits), step)
        np.testing.assert_array_equal(tokens, wanted)
        assert (tokens.dtype, logprobs.dtype) == (np.int64, np.float32)
        np.testing.assert_allclose(logprobs, wanted_logprobs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("number", [0.0, 0.25, 0.5, np.nextafter(1.0, 0.0)])
def test_a_draw_at_the_ends_has_weight(number):
    logits = np.full((1, VOCAB), -np.inf, np.float32)
    logits[0, [3, 690]] = 0.0
    device = DeviceSampler(GenerationOptions(max_new_tokens=1), [np.array([1])], np.array([[number]]), vocab_size=VOCAB)
    assert device.draw(paddle.to_tensor(logits), 0)[0][0] == (3 if number < 0.5 else 690)


@pytest.mark.parametrize("damage", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("options", [{}, {"do_sample": False}, {"repetition_penalty": 2.0}])
def test_damaged_logits_are_refused(damage, options):
    logits = logits_of(0)
    logits[1, 2] = damage
    if damage == -np.inf:
        logits[1] = damage
    _, device = samplers(options)
    with pytest.raises(NotFiniteError, match="token 4 .* 1 of 6 sequences"):
        device.draw(paddle.to_tensor(logits), 4)


def test_one_token_that_is_impossible_is_no_damage():
    logits = logits_of(0)
    logits[1, 2] = -np.inf
    host, device = samplers({})
    np.testing.assert_array_equal(device.draw(paddle.to_tensor(logits), 0)[0], host.draw(logits, 0)[0])


CONFIG = {
    "model_type": "llama",
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}


@pytest.mark.parametrize("name", ["plain", "both", "penalty", "greedy"])
def test_the_engine_draws_the_same_and_copies_no_logits_to_the_host(monkeypatch, name):
    model = CausalLM(DecoderConfig.from_dict(CONFIG))
    draw_weights(model, seed=1, std=0.3)
    prompts = [np.arange(3, 3 + n) for n in (4, 1, 9, 6)]
    options = GenerationOptions(max_new_tokens=16, stop_token_ids=(7, 8), **OPTIONS[name])

    def generate():
        engine = EagerEngine(model)
        engine.load_weights(None, 0)
        return engine.generate(prompts, options, seed=2, sequence_ids=range(4))

    wanted = generate()
    copied, numpy = [], paddle.Tensor.numpy
    monkeypatch.setattr(device_kernels, "on_device", lambda *_: True)
    monkeypatch.setattr(paddle.Tensor, "numpy", lambda tensor: copied.append(tensor.size) or numpy(tensor))
    found = generate()
    assert 0 < max(copied) <= 3 * len(prompts), "tokens, log-probs and sums"
    for one, other in zip(found, wanted, strict=True):
        assert one.token_ids.tolist() == other.token_ids.tolist() and one.finish_reason == other.finish_reason
        np.testing.assert_allclose(one.logprobs, other.logprobs, atol=1e-5)
