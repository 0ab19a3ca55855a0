"""The compiled sampler against alignment/generation/sampling.py, and against exact probabilities."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignment.errors import NumericalError
from alignment.generation.engine import GenerationOptions
from alignment.generation.sampling import Sampler, exponentiate, keep_likeliest
from alignment.ops.native.library import Sampling

ISAS = ("scalar", "avx2", "avx512", "avx512bf16", "avx512amx", "neon")
OPTIONS = {
    "plain": {},
    "temperature": dict(temperature=0.7),
    "top-k": dict(top_k=50),
    "top-p": dict(top_p=0.9),
    "both": dict(top_k=1000, top_p=0.8, temperature=1.3),
    "penalty": dict(repetition_penalty=1.2, top_p=0.95, temperature=0.8),
    "greedy": dict(do_sample=False),
    "greedy with penalty": dict(do_sample=False, repetition_penalty=1.5, temperature=0.3),
}
LAST = np.nextafter(1.0, 0.0)


def draw_both(core, logits, uniforms, *, usable=None, prompts=None, threads=1, **more):
    """Return (tokens, log-probs) of the specification and of the kernels for new token number 1."""
    vocab = logits.shape[1]
    options = GenerationOptions(max_new_tokens=4, **more)
    prompts = [np.arange(row % 3, vocab, 3) for row in range(len(logits))] if prompts is None else prompts
    sampler = Sampler(options, prompts, np.tile(uniforms[:, None], 4), vocab_size=vocab, usable_vocab_size=usable)
    forbid = np.full(len(logits), options.min_new_tokens > 1)
    names = ("do_sample", "temperature", "top_k", "top_p", "repetition_penalty", "stop_token_ids")
    sampling = Sampling(usable_vocab=vocab if usable is None else usable, **{n: getattr(options, n) for n in names})
    seen = None
    if options.repetition_penalty != 1.0:
        seen = np.zeros((len(logits), vocab), bool)
        for row, prompt in zip(seen, prompts, strict=True):
            row[prompt] = True
    native = core.sample(logits, uniforms, sampling, forbid_stops=forbid, seen=seen, threads=threads)
    return sampler.draw(logits, 1), native


def exact_logprobs(logits, temperature, tokens):
    scaled = (logits / np.float32(temperature)).astype(np.float64)
    scaled -= scaled.max(axis=1, keepdims=True)
    return (scaled - np.log(np.exp(scaled).sum(axis=1, keepdims=True)))[np.arange(len(tokens)), tokens]


@st.composite
def cases(draw):
    """Logits on a grid, so that ties are frequent, with -inf among them; any option; any place in [0, 1)."""
    rows, vocab = draw(st.integers(1, 3)), draw(st.sampled_from([1, 2, 7, 8, 9, 40, 255, 256, 257, 700]))
    numbers = np.random.default_rng(draw(st.integers(0, 2**32)))
    logits = numbers.integers(-40, 41, (rows, vocab)).astype(np.float32) / draw(st.sampled_from([1, 8, 64, 0.25]))
    logits[numbers.random(logits.shape) < draw(st.sampled_from([0.0, 0.2]))] = -np.inf
    usable = draw(st.integers(1, vocab))
    # A stop token at the end of what is usable; token 0 keeps a weight, whatever else is forbidden.
    logits[:, 0] = np.maximum(logits[:, 0], -1.0)
    stops = draw(st.lists(st.integers(1, vocab + 3), max_size=3)) if vocab > 1 else []
    more = dict(
        do_sample=draw(st.booleans()),
        temperature=draw(st.sampled_from([1.0, 0.5, 0.7, 3.0])),
        top_k=draw(st.sampled_from([0, 1, 2, 5, 60, 1000])),
        top_p=draw(st.sampled_from([1.0, 1e-9, 0.3, 0.5, 0.9, 0.999999])),
        repetition_penalty=draw(st.sampled_from([1.0, 1.0, 0.5, 1.3])),
        stop_token_ids=tuple(stops),
        min_new_tokens=draw(st.integers(1, 2)),
    )
    uniforms = draw(st.lists(st.sampled_from([0.0, LAST, None]), min_size=rows, max_size=rows))
    uniforms = np.array([numbers.random() if uniform is None else uniform for uniform in uniforms])
    return logits, uniforms, dict(usable=usable, **more)


@settings(max_examples=600)
@given(case=cases())
def test_tokens_are_those_of_the_specification(core, case):
    logits, uniforms, more = case
    (tokens, _), (native, logprobs) = draw_both(core, logits, uniforms, **more)
    assert native.tolist() == tokens.tolist()
    exact = exact_logprobs(logits, more["temperature"], tokens)
    np.testing.assert_allclose(logprobs, exact, atol=1e-6, rtol=1e-7)


@pytest.mark.parametrize("spread", [0.01, 1.0, 4.0], ids="spread {}".format)
@pytest.mark.parametrize("name", OPTIONS)
def test_real_vocabularies_and_every_instruction_set(core, name, spread):
    numbers = np.random.default_rng(1)
    logits = (numbers.normal(size=(12, 32003)) * spread).astype(np.float32)
    uniforms = numbers.random(12)
    results = {}
    for isa in available(core):
        core.set_isa(isa)
        (tokens, _), results[isa] = draw_both(core, logits, uniforms, **OPTIONS[name])
        assert results[isa][0].tolist() == tokens.tolist(), isa
    first = results["scalar"]
    exact = exact_logprobs(logits, OPTIONS[name].get("temperature", 1.0), first[0])
    np.testing.assert_allclose(first[1], exact, atol=1e-6, rtol=1e-7)
    for isa, (_, logprobs) in results.items():
        assert logprobs.tobytes() == first[1].tobytes(), isa


@pytest.mark.parametrize("name", OPTIONS)
def test_a_row_depends_on_nothing_but_itself(core, name):
    numbers = np.random.default_rng(2)
    logits, uniforms = numbers.normal(size=(9, 1000)).astype(np.float32) * 2, numbers.random(9)
    prompts = [numbers.integers(0, 1000, 50) for _ in range(9)]
    _, (tokens, logprobs) = draw_both(core, logits, uniforms, prompts=prompts, **OPTIONS[name])
    for threads in (2, 3, 16):
        _, again = draw_both(core, logits, uniforms, prompts=prompts, threads=threads, **OPTIONS[name])
        assert (again[0].tolist(), again[1].tobytes()) == (tokens.tolist(), logprobs.tobytes())
    for row in range(9):
        only = slice(row, row + 1)
        _, alone = draw_both(core, logits[only], uniforms[only], prompts=prompts[only], **OPTIONS[name])
        assert (alone[0][0], alone[1][0]) == (tokens[row], logprobs[row])


@pytest.mark.parametrize(
    ("more", "critical"),
    [({}, 92.0), (dict(temperature=0.5), 92.0), (dict(top_k=10), 34.0), (dict(top_p=0.7), 92.0)],
    ids=["plain", "temperature", "top-k", "top-p"],
)
def test_frequencies_follow_the_exact_probabilities(core, more, critical):
    # critical: more than the 99.99 % point of chi-square with 49 (top-k: 9) degrees of freedom, 92.0 (33.7).
    draws, numbers = 100_000, np.random.default_rng(3)
    logits = numbers.normal(size=50).astype(np.float32)
    weights, _ = exponentiate(logits[None] / np.float32(more.get("temperature", 1.0)))
    weights = keep_likeliest(weights, more.get("top_k", 0), more.get("top_p", 1.0))[0].astype(np.float64)
    tokens, _ = core.sample(np.tile(logits, (draws, 1)), numbers.random(draws), Sampling(usable_vocab=50, **more))
    counts = np.bincount(tokens, minlength=50)
    assert not counts[weights == 0].any()
    expected = (weights / weights.sum() * draws)[weights > 0]
    assert ((counts[weights > 0] - expected) ** 2 / expected).sum() < critical


def test_a_number_on_the_border_of_two_tokens_belongs_to_the_upper_one(core):
    logits = np.zeros((4, 4), np.float32)
    (tokens, _), (native, _) = draw_both(core, logits, np.array([0.0, 0.25, 0.5, 0.75]))
    assert native.tolist() == tokens.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("lowest", [-88.0, -95.0, -103.0, -104.5, -200.0, -np.inf])
def test_weights_vanish_where_those_of_the_specification_do(core, lowest):
    logits = np.array([[lowest, 0.0, lowest]], np.float32)
    (tokens, _), (native, _) = draw_both(core, logits, np.zeros(1))
    assert native.tolist() == tokens.tolist() == [1 if lowest < -104 else 0]


def test_the_likeliest_of_tokens_that_the_temperature_makes_equal(core):
    # Two neighbouring floats whose quotients are one: only what forbids or discourages tells them apart.
    pairs = ((np.float32(1.5 + i * 2.0**-23), np.float32(1.5 + (i + 1) * 2.0**-23)) for i in range(99))
    lower, upper = next(pair for pair in pairs if pair[0] / np.float32(3) == pair[1] / np.float32(3))
    logits, more = np.array([[lower, upper, 0.0]], np.float32), dict(do_sample=False, temperature=3.0)
    for usable, expected in ((3, 0), (2, 1)):
        (tokens, _), (native, _) = draw_both(core, logits, np.zeros(1), usable=usable, **more)
        assert native.tolist() == tokens.tolist() == [expected]


def test_stops_are_forbidden_row_by_row(core):
    logits = np.array([[0.0, 1.0, 9.0]] * 2, np.float32)
    sampling = Sampling(usable_vocab=3, do_sample=False, stop_token_ids=(2, 99))
    tokens, logprobs = core.sample(logits, np.zeros(2), sampling, forbid_stops=np.array([True, False]))
    assert tokens.tolist() == [1, 2]
    np.testing.assert_allclose(logprobs, exact_logprobs(logits, 1.0, tokens), atol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("column", [0, 3, 8, 16])
def test_a_damaged_row_is_named(core, bad, column):
    logits = np.zeros((6, 17), np.float32)
    for row in (4, 5):
        logits[row] = -np.inf if bad == -np.inf else 0.0
        logits[row, column] = bad
    with pytest.raises(NumericalError, match=r"row 4 are NaN or infinite \(2 of 6 rows"):
        core.sample(logits, np.zeros(6), Sampling(usable_vocab=17), threads=2)


def test_a_row_that_may_get_no_token_is_named(core):
    logits = np.zeros((2, 4), np.float32)
    sampling = Sampling(usable_vocab=1, stop_token_ids=(0,))
    with pytest.raises(NumericalError, match="row 1 allow no token"):
        core.sample(logits, np.zeros(2), sampling, forbid_stops=np.array([False, True]))


@pytest.mark.parametrize(
    "wrong", [dict(temperature=0.0), dict(top_p=0.0), dict(top_k=-1), dict(repetition_penalty=0.0)], ids=str
)
def test_impossible_options_are_refused(core, wrong):
    with pytest.raises(RuntimeError, match=next(iter(wrong))):
        core.sample(np.zeros((1, 4), np.float32), np.zeros(1), Sampling(usable_vocab=4, **wrong))


def test_inputs_are_left_unchanged(core):
    numbers = np.random.default_rng(4)
    logits, seen = numbers.normal(size=(3, 300)).astype(np.float32), numbers.random((3, 300)) < 0.5
    copies = logits.copy(), seen.copy()
    sampling = Sampling(usable_vocab=200, top_k=9, top_p=0.5, repetition_penalty=2.0, stop_token_ids=(1,))
    core.sample(logits, np.full(3, 0.5), sampling, forbid_stops=np.ones(3, bool), seen=seen)
    assert np.array_equal(logits, copies[0])
    assert np.array_equal(seen, copies[1])


def test_no_rows_give_no_tokens(core):
    tokens, logprobs = core.sample(np.empty((0, 5), np.float32), np.empty(0), Sampling(usable_vocab=5))
    assert (len(tokens), len(logprobs)) == (0, 0)


def available(core):
    """Return the instruction sets that library and machine have."""
    names = []
    for name in ISAS:
        try:
            core.set_isa(name)
        except RuntimeError:
            continue
        names.append(name)
    return names
