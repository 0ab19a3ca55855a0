"""Filters, draws and log-probs against brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from alignment.errors import NumericalError, UserError
from alignment.generation.engine import GenerationOptions
from alignment.generation.sampling import Sampler, exponentiate, keep_likeliest, penalise, pick


def log_softmax(x):
    x = x.astype(np.float64)
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def sampler(options, *, prompts=None, uniforms=None, rows=2, vocab=6, **more):
    prompts = [np.array([0])] * rows if prompts is None else prompts
    uniforms = np.full((rows, options.max_new_tokens), 0.5) if uniforms is None else uniforms
    return Sampler(options, prompts, uniforms, vocab_size=vocab, **more)


LOGITS = np.array([[2.0, -1.0, 0.5, 1.5, -3.0, 0.0], [0.0, 0.1, 0.2, 0.3, 0.4, 5.0]], np.float32)


@given(
    weights=hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 3), st.integers(1, 700)),
        elements=st.floats(0, 1, width=32, allow_subnormal=False),
    ),
    uniform=st.floats(0, 1, exclude_max=True),
)
def test_pick_inverts_the_cumulative_weights(weights, uniform):
    weights[:, -1] = 1.0
    tokens = pick(weights, np.full(len(weights), uniform))
    for row, token in zip(weights.astype(np.float64), tokens, strict=True):
        upper, total = row[: token + 1].sum(), row.sum()
        assert row[token] > 0
        assert upper - row[token] <= uniform * total + 1e-9 <= upper + 2e-9


def test_pick_at_the_ends():
    weights = np.zeros((1, 600), np.float32)
    weights[0, [3, 590]] = 1.0
    assert pick(weights, np.array([0.0]))[0] == 3
    assert pick(weights, np.array([np.nextafter(1.0, 0.0)]))[0] == 590
    assert pick(weights, np.array([0.5]))[0] == 590


def test_pick_frequencies_follow_the_weights():
    weights = np.array([0.5, 0.0, 0.2, 0.3], np.float32)
    numbers = (np.arange(1000) + 0.5) / 1000
    tokens = pick(np.tile(weights, (1000, 1)), numbers)
    assert np.bincount(tokens, minlength=4).tolist() == [500, 0, 200, 300]


@given(
    weights=hnp.arrays(np.float32, 30, elements=st.floats(2.0**-10, 1, width=32), unique=True),
    top_k=st.integers(0, 40),
    top_p=st.floats(0.01, 1.0),
)
def test_keep_likeliest_is_the_smallest_set(weights, top_k, top_p):
    kept = keep_likeliest(weights[None], top_k, top_p)[0]
    order = np.argsort(-weights)
    ranked = weights[order].astype(np.float64)[: top_k or 30]
    before = np.concatenate([[0.0], np.cumsum(ranked)[:-1]])
    clear = abs(before / ranked.sum() - top_p) > 1e-6
    wanted = before < top_p * ranked.sum() if top_p < 1 else np.ones(len(ranked), bool)
    got = kept[order][: len(ranked)] > 0
    assert np.array_equal(got[clear], wanted[clear])
    assert not kept[order][len(ranked) :].any()
    assert kept.max() == weights.max()


def test_a_very_small_top_p_keeps_one_token():
    assert (keep_likeliest(exponentiate(LOGITS)[0], 0, 1e-9) > 0).sum(axis=1).tolist() == [1, 1]


def test_penalty_makes_seen_tokens_less_likely_whatever_their_sign():
    seen = np.array([[True, True, False, False, False, False]])
    assert penalise(LOGITS[:1], seen, 2.0)[0].tolist() == [1.0, -2.0, 0.5, 1.5, -3.0, 0.0]


def test_penalty_counts_prompt_and_answer():
    options = GenerationOptions(max_new_tokens=3, do_sample=False, repetition_penalty=10.0)
    draw = sampler(options, prompts=[np.array([0]), np.array([1])])
    assert draw.draw(LOGITS, 0)[0].tolist() == [3, 5]
    assert draw.draw(LOGITS, 1)[0].tolist() == [2, 5]


@pytest.mark.parametrize("more", [{}, {"top_k": 2}, {"top_p": 0.3}, {"repetition_penalty": 3.0}, {"do_sample": False}])
def test_logprob_is_taken_before_filters_and_at_temperature(more):
    options = GenerationOptions(max_new_tokens=1, temperature=0.7, **more)
    tokens, logprobs = sampler(options).draw(LOGITS, 0)
    np.testing.assert_allclose(logprobs, log_softmax(LOGITS / 0.7)[[0, 1], tokens], atol=1e-6)
    assert logprobs.dtype == np.float32


def test_stop_tokens_wait_for_min_new_tokens():
    options = GenerationOptions(max_new_tokens=3, min_new_tokens=1, do_sample=False, stop_token_ids=(0, 5))
    draw = sampler(options)
    assert draw.draw(LOGITS, 0)[0].tolist() == [3, 4]
    assert draw.draw(LOGITS, 1)[0].tolist() == [0, 5]


def test_unusable_ids_are_never_drawn():
    uniforms = np.full((2, 1), 0.999999)
    options = GenerationOptions(max_new_tokens=1)
    assert sampler(options, uniforms=uniforms).draw(LOGITS, 0)[0].tolist() == [5, 5]
    assert max(sampler(options, uniforms=uniforms, usable_vocab_size=3).draw(LOGITS, 0)[0]) == 2


def test_inputs_are_left_unchanged():
    logits = LOGITS.copy()
    options = GenerationOptions(max_new_tokens=1, top_k=2, top_p=0.5, repetition_penalty=2.0, temperature=0.5)
    sampler(options, usable_vocab_size=4).draw(logits, 0)
    assert np.array_equal(logits, LOGITS)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_damaged_logits_are_refused(bad):
    logits = LOGITS.copy()
    logits[1, 2] = bad
    with pytest.raises(NumericalError, match="token 4 .* 1 of 2 sequences"):
        sampler(GenerationOptions(max_new_tokens=9)).draw(logits, 4)


@pytest.mark.parametrize(
    "bad",
    [
        dict(max_new_tokens=0),
        dict(min_new_tokens=9),
        dict(temperature=0.0),
        dict(temperature=float("nan")),
        dict(top_k=-1),
        dict(top_p=0.0),
        dict(top_p=1.5),
        dict(repetition_penalty=0.0),
        dict(stop_token_ids=(-1,)),
    ],
)
def test_impossible_options_are_named(bad):
    with pytest.raises(UserError, match=next(iter(bad))):
        GenerationOptions(**{"max_new_tokens": 8, **bad})


def test_all_bad_options_are_reported_at_once():
    with pytest.raises(UserError, match="top_k.*top_p"):
        GenerationOptions(max_new_tokens=1, top_k=-2, top_p=2.0)
