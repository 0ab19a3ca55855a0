"""The engine against running the whole sequence through the model for every token."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from alignment.errors import UserError
from alignment.generation.eager import room
from alignment.generation.eager.eager_engine import EagerEngine
from alignment.generation.engine import GenerationOptions
from alignment.generation.random_numbers import uniform
from alignment.generation.sampling import Sampler
from alignment.models.decoder.logprobs import policy_logprobs
from alignment.records import TokenBatch
from tests.tiny_models import tiny_causal

SHAPE = dict(vocab_size=40, hidden_size=32, intermediate_size=48, max_position_embeddings=64)
SHAPE |= dict(num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=2)
FAMILIES = {
    "llama": dict(model_type="llama"),
    "window": dict(model_type="mistral", sliding_window=5),
    "qwen2": dict(model_type="qwen2", tie_word_embeddings=True),
    "qwen3": dict(model_type="qwen3", head_dim=12),
}
PROMPTS = [[5, 6, 7], [1], [9, 8, 7, 6, 5, 4, 3], [2, 2], [30, 31, 32, 33, 34]]
SAMPLED = GenerationOptions(max_new_tokens=12, stop_token_ids=(3, 11), temperature=0.9)


def build(family="llama", seed=0):
    return tiny_causal(seed=seed, std=0.4, **{**SHAPE, **FAMILIES[family]})


def generate(model, prompts, options, *, seed=1, ids=None, **how):
    engine = EagerEngine(model, **how)
    engine.load_weights(None, 0)
    return engine.generate(prompts, options, seed=seed, sequence_ids=range(len(prompts)) if ids is None else ids)


def generate_slowly(model, prompt, options, *, seed, sequence):
    """Return (tokens, log-probs) by a forward pass over everything for each token."""
    numbers = uniform(seed, np.array([[sequence]]), np.arange(options.max_new_tokens))
    sampler = Sampler(options, [np.array(prompt)], numbers, vocab_size=SHAPE["vocab_size"])
    tokens, logprobs = [], []
    for step in range(options.max_new_tokens):
        with paddle.no_grad():
            logits = model(np.array([[*prompt, *tokens]]))[:, -1].numpy()
        token, logprob = sampler.draw(logits, step)
        tokens.append(int(token[0]))
        logprobs.append(float(logprob[0]))
        if tokens[-1] in options.stop_token_ids:
            break
    return tokens, logprobs


OPTIONS = {
    "greedy": GenerationOptions(max_new_tokens=12, do_sample=False, stop_token_ids=(3, 11)),
    "sampled": SAMPLED,
    "filtered": GenerationOptions(max_new_tokens=12, stop_token_ids=(3,), top_k=10, top_p=0.8, temperature=1.3),
    "penalty": GenerationOptions(
        max_new_tokens=12, min_new_tokens=6, stop_token_ids=(3, 11), repetition_penalty=1.3, do_sample=False
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", OPTIONS)
def test_same_tokens_as_the_slow_way(family, kind):
    model, options = build(family), OPTIONS[kind]
    for row, answer in enumerate(generate(model, PROMPTS, options)):
        tokens, logprobs = generate_slowly(model, PROMPTS[row], options, seed=1, sequence=row)
        assert answer.token_ids.tolist() == tokens
        np.testing.assert_allclose(answer.logprobs, logprobs, atol=1e-4)
        assert answer.finish_reason == ("stop" if tokens[-1] in options.stop_token_ids else "length")


def test_answers_do_not_depend_on_the_company():
    model = build()
    together = generate(model, PROMPTS, SAMPLED, ids=[10, 11, 12, 13, 14])
    assert len({tuple(answer.token_ids) for answer in together}) > 1
    assert len({len(answer.token_ids) for answer in together}) > 1
    order = [3, 0, 4, 2, 1]
    shuffled = generate(model, [PROMPTS[i] for i in order], SAMPLED, ids=[10 + i for i in order])
    for place, i in enumerate(order):
        assert shuffled[place].token_ids.tolist() == together[i].token_ids.tolist()
    for rows in (1, 2, 3):
        again = generate(model, PROMPTS, SAMPLED, ids=[10, 11, 12, 13, 14], max_batch_rows=rows)
        assert [a.token_ids.tolist() for a in again] == [a.token_ids.tolist() for a in together]


def test_seed_and_sequence_id_change_the_answer():
    model = build()
    options = GenerationOptions(max_new_tokens=12)
    first = generate(model, PROMPTS[:1], options)[0].token_ids.tolist()
    assert generate(model, PROMPTS[:1], options)[0].token_ids.tolist() == first
    assert generate(model, PROMPTS[:1], options, seed=2)[0].token_ids.tolist() != first
    assert generate(model, PROMPTS[:1], options, ids=[1])[0].token_ids.tolist() != first


def test_cache_growth_changes_nothing(monkeypatch):
    model = build()
    options = GenerationOptions(max_new_tokens=40)
    whole = generate(model, PROMPTS, options)
    monkeypatch.setattr(room, "PAGE", 1)
    paged = generate(model, PROMPTS, options)
    assert [a.token_ids.tolist() for a in paged] == [a.token_ids.tolist() for a in whole]


def test_rollout_logprobs_are_those_of_the_trainer():
    model = build("qwen3")
    answers = generate(model, PROMPTS, SAMPLED)
    sequences = [np.array([*prompt, *answer.token_ids]) for prompt, answer in zip(PROMPTS, answers, strict=True)]
    places = [np.arange(len(p), len(s)) for p, s in zip(PROMPTS, sequences, strict=True)]
    logprobs, _ = policy_logprobs(model, TokenBatch.build(sequences, places), temperature=0.9, with_entropy=False)
    np.testing.assert_allclose(np.concatenate([a.logprobs for a in answers]), logprobs.numpy(), atol=1e-4)


def test_other_weights_can_be_loaded():
    model, other = build(), build(seed=5)
    engine = EagerEngine(model)
    engine.load_weights(other.named_parameters(), 3)
    options = OPTIONS["greedy"]
    answers = engine.generate(PROMPTS, options, seed=0, sequence_ids=range(5))
    assert engine.version == 3
    wanted = generate(other, PROMPTS, options)
    assert [a.token_ids.tolist() for a in answers] == [a.token_ids.tolist() for a in wanted]
    assert [a.token_ids.tolist() for a in answers] != [a.token_ids.tolist() for a in generate(model, PROMPTS, options)]


def test_generation_leaves_the_model_unchanged():
    model = build("qwen2")
    before = {name: p.numpy().copy() for name, p in model.named_parameters()}
    generate(model, PROMPTS, SAMPLED)
    for name, parameter in model.named_parameters():
        assert np.array_equal(before[name], parameter.numpy()), name
        assert not parameter.stop_gradient and parameter.grad is None


@pytest.mark.parametrize(
    ("prompt", "message"),
    [([], "empty"), ([1, 40], "token id 40"), ([-1], "token id -1"), ([1] * 53, "together at most 64")],
)
def test_bad_prompts_are_refused(prompt, message):
    with pytest.raises(UserError, match=f"prompt 1 .*{message}"):
        generate(build(), [[1], prompt], SAMPLED)


def test_the_longest_allowed_sequence_runs():
    answers = generate(build(), [[1] * 52], GenerationOptions(max_new_tokens=12))
    assert len(answers[0].token_ids) == 12


def test_max_batch_rows_is_checked():
    with pytest.raises(UserError, match="max_batch_rows=0"):
        EagerEngine(build(), max_batch_rows=0)


def test_release_wants_new_weights():
    engine = EagerEngine(build())
    engine.load_weights(None, 0)
    engine.release()
    with pytest.raises(AssertionError, match="load_weights"):
        engine.generate([[1]], SAMPLED, seed=0, sequence_ids=[0])


def test_max_total_tokens_limits_each_row_by_its_own_prompt():
    options = GenerationOptions(max_new_tokens=10, max_total_tokens=8, do_sample=False)
    assert options.answer_limits(np.array([2, 7])).tolist() == [6, 1]
