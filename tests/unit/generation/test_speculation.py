"""Drafted tokens change the number of passes and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from alignment.generation.engine import GenerationOptions
from alignment.generation.fused.drafts import Continuations, Drafter, PreviousAnswers
from alignment.generation.fused.fused_engine import FusedEngine
from alignment.generation.fused.fused_settings import FusedSettings
from alignment.generation.fused.speculation import MOST_ROWS
from alignment.ops.native.library import find_core
from tests.tiny_models import tiny_causal

SHAPE = dict(vocab_size=12, hidden_size=16, intermediate_size=24, max_position_embeddings=96)
SHAPE |= dict(num_attention_heads=2, num_key_value_heads=1, num_hidden_layers=2)
OPTIONS = {
    "greedy": GenerationOptions(max_new_tokens=40, do_sample=False, stop_token_ids=(3,)),
    "sampled": GenerationOptions(max_new_tokens=40, stop_token_ids=(3,), temperature=0.4, min_new_tokens=9),
    "filtered": GenerationOptions(max_new_tokens=40, stop_token_ids=(3, 5), top_k=4, top_p=0.9, max_total_tokens=50),
}
PROMPTS = [np.random.default_rng(number // 3).integers(0, 12, 1 + number * 5 % 23).tolist() for number in range(12)]
PROMPTS += [[1, 2, 4, 1, 2, 4, 1, 2]] * 3


@pytest.fixture(scope="module")
def model():
    """A model whose answers repeat themselves at a low temperature."""
    if find_core().core is None:
        pytest.skip(find_core().reason)
    return tiny_causal(seed=1, std=0.5, **SHAPE)


def open_engine(model, *, progress=None, **settings):
    settings = FusedSettings(**{"block_tokens": 16, "kv_memory": "1MiB", **settings})
    engine = FusedEngine(model, settings, progress=progress)
    engine.load_weights(None, 0)
    return engine


def bits(completions):
    return [(c.token_ids.tolist(), c.logprobs.tobytes(), c.finish_reason) for c in completions]


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize(
    "settings",
    [
        {"speculative_tokens": 3, "num_slots": 4},
        {"speculative_tokens": 9, "num_slots": 3, "speculative_method": "previous"},
        {"speculative_tokens": 5, "num_slots": 5, "kv_memory": 12 * 2 * 2 * 16 * 8 * 4, "max_rows": 7},
    ],
    ids=["own", "previous", "little-memory"],
)
def test_tokens_and_logprobs_are_those_without_drafts(model, name, settings):
    plain, engine, drafted, accepted = open_engine(model), open_engine(model, **settings), 0, 0
    for seed in (1, 2):  # the second time there are previous answers
        wanted = plain.generate(PROMPTS, OPTIONS[name], seed=seed, sequence_ids=range(len(PROMPTS)))
        found = engine.generate(PROMPTS, OPTIONS[name], seed=seed, sequence_ids=range(len(PROMPTS)))
        assert bits(found) == bits(wanted)
        drafted, accepted = drafted + engine.counts.drafted, accepted + engine.counts.accepted
    assert 0 < accepted < drafted


def test_the_same_answers_again_take_few_passes(model):
    engine = open_engine(model, speculative_tokens=7, speculative_method="previous", num_slots=1)
    options = GenerationOptions(max_new_tokens=40, temperature=0.7)
    first = engine.generate(PROMPTS[3:4], options, seed=1, sequence_ids=[5])
    before = engine.counts
    again = engine.generate(PROMPTS[3:4], options, seed=1, sequence_ids=[5])
    assert bits(again) == bits(first)
    assert engine.counts.steps < before.steps / 2
    assert engine.counts.accepted > 20
    assert engine.counts.rows == len(PROMPTS[3]) + 39 + engine.counts.drafted - engine.counts.accepted


def test_tokens_given_to_progress_are_those_of_the_answers(model):
    added = []
    engine = open_engine(model, speculative_tokens=4, num_slots=2, progress=added.append)
    found = engine.generate(PROMPTS, OPTIONS["greedy"], seed=1, sequence_ids=range(len(PROMPTS)))
    assert sum(added) == sum(len(c.token_ids) for c in found)


def test_no_draft_joins_a_pass_of_many_rows_or_a_draw_that_is_penalised(model):
    engine = open_engine(model, speculative_tokens=4, num_slots=MOST_ROWS)
    options = GenerationOptions(max_new_tokens=8, do_sample=False)
    engine.generate([[1, 2, 1, 2]] * MOST_ROWS, options, seed=1, sequence_ids=range(MOST_ROWS))
    assert engine.counts.drafted == 0
    penalised = GenerationOptions(max_new_tokens=8, repetition_penalty=1.2)
    engine.generate([[1, 2, 1, 2, 1]], penalised, seed=1, sequence_ids=[0])
    assert engine.counts.drafted == 0


def test_what_followed_most_recently_is_found():
    text = Continuations()
    text.extend([1, 2, 3, 4, 9, 2, 3, 5])
    assert text.find((2, 3), 2) == [5]
    assert text.find((1, 2, 3), 3) == [4, 9, 2]
    assert text.find((7, 7), 3) == []


def test_answers_of_the_last_time_come_before_the_sequence_itself():
    previous, prompt = PreviousAnswers(), np.array([1, 2, 3], np.int32)
    previous.record([prompt, prompt], [np.array([7, 8]), np.array([4, 6])])
    drafter = Drafter(previous)
    drafter.enter(0, prompt, np.array([1, 2, 3, 5, 2, 3], np.int32))
    assert drafter.draft(0, 4) == [4, 6], "not 5, and nothing of the answer that follows"
    drafter.extend(np.array([0]), np.array([7]))
    assert drafter.draft(0, 4) == [8]
    previous.record([prompt], [np.array([4])])
    assert [answer.tolist() for answer in previous.of(prompt)] == [[4]]
