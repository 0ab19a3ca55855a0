"""Drafted tokens change the number of passes and nothing else."""

from __future__ import annotations

import json

import numpy as np
import pytest

from alignment.generation.engine import GenerationOptions
from alignment.generation.fused.drafts import Continuations, Drafter, PreviousAnswers
from alignment.generation.fused.fused_engine import FusedEngine
from alignment.generation.fused.fused_settings import AUTO, WEIGHT_TYPES, FusedSettings
from alignment.generation.fused.speculation import MOST_ROWS, DraftLengths
from alignment.ops.native.library import find_core
from alignment.records import Completion
from alignment.rollout.merging_engine import MergingEngine
from tests.tiny_models import tiny_causal, write_adapter

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


def open_engine(model, *, progress=None, loads=True, **settings):
    settings = FusedSettings(**{"block_tokens": 16, "kv_memory": "1MiB", **settings})
    engine = FusedEngine(model, settings, progress=progress)
    if loads:
        engine.load_weights(None, 0)
    return engine


def bits(completions):
    return [(c.token_ids.tolist(), c.logprobs.tobytes(), c.finish_reason) for c in completions]


def answers(*tokens):
    return [Completion(np.array(answer), np.zeros(len(answer), np.float32), "stop") for answer in tokens]


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize(
    "settings",
    [
        {"speculative_tokens": "auto", "num_slots": 6},
        {"speculative_tokens": 3, "num_slots": 4},
        {"speculative_tokens": 9, "num_slots": 3, "speculative_method": "previous"},
        {"speculative_tokens": 5, "num_slots": 5, "kv_memory": 12 * 2 * 2 * 16 * 8 * 4, "max_rows": 7},
    ],
    ids=["auto", "own", "previous", "little-memory"],
)
def test_tokens_and_logprobs_are_those_without_drafts(model, name, settings):
    plain, engine, drafted, accepted = open_engine(model), open_engine(model, **settings), 0, 0
    for seed in (1, 2):  # the second time there are previous answers
        wanted = plain.generate(PROMPTS, OPTIONS[name], seed=seed, sequence_ids=range(len(PROMPTS)))
        found = engine.generate(PROMPTS, OPTIONS[name], seed=seed, sequence_ids=range(len(PROMPTS)))
        assert bits(found) == bits(wanted)
        counts = engine.counts
        assert (sum(c.drafted for c in found), sum(c.accepted for c in found)) == (counts.drafted, counts.accepted)
        drafted, accepted = drafted + counts.drafted, accepted + counts.accepted
    assert 0 < accepted < drafted


@pytest.mark.parametrize("weights", ["bfloat16", "int8", "merged adapter"])
def test_no_bit_changes_with_other_weights(model, weights, tmp_path):
    how, adapter = {"weight_type": weights} if weights in WEIGHT_TYPES else {}, None
    if not how:
        model = tiny_causal(seed=1, std=0.5, **SHAPE)
        write_adapter(tmp_path, model, rank=2, std=0.5)
        adapter = model.adapter
    found, counts = [], None
    for more in ({}, {"speculative_tokens": AUTO, "speculative_method": "previous"}):
        engine = open_engine(model, num_slots=4, loads=adapter is None, **how, **more)
        if adapter is not None:
            MergingEngine(engine, adapter).load_weights(model.named_parameters(), 0)
        for _ in range(2):
            made = engine.generate(PROMPTS, OPTIONS["sampled"], seed=1, sequence_ids=range(len(PROMPTS)))
            found.append(bits(made))
        counts = engine.counts
    assert found[1:] == found[:1] * 3
    assert 50 < counts.accepted <= counts.drafted


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
    previous.record([prompt, prompt], answers([7, 8], [4, 6]))
    drafter = Drafter(previous)
    drafter.enter(0, prompt)
    assert drafter.draft(0, 4, answer=np.array([5, 2, 3])) == [4, 6], "not 5, and nothing of the answer that follows"
    assert drafter.draft(0, 4, answer=np.array([5, 2, 3, 7])) == [8]
    previous.record([prompt], answers([4]))
    assert [answer.tolist() for answer in previous.of(prompt)] == [[4]]


def test_restored_answers_are_those_that_were_saved_and_the_oldest_are_dropped():
    previous, restored = PreviousAnswers(most_tokens=5), PreviousAnswers(most_tokens=5)
    first, second, third = (np.array([number], np.int32) for number in range(3))
    previous.record([first, second, second], answers([1, 2], [3], [4]))
    restored.load_state(json.loads(json.dumps(previous.state())))
    for one in (previous, restored):
        one.record([first], answers([6, 7]))  # asked again: the second prompt is now the oldest
        one.record([third], answers([5, 6]))
        assert [[a.tolist() for a in one.of(prompt)] for prompt in (first, second, third)] == [[[6, 7]], [], [[5, 6]]]
        assert one.state() == previous.state()


def test_a_draft_is_as_long_as_pays():
    lengths = DraftLengths(None)
    assert [lengths.choose(rows) for rows in (0, 1, 4, 64)] == [0, 5, 2, 0]
    lengths.observe(right=92, wrong=0)
    assert [lengths.choose(rows) for rows in (1, 4, 64)] == [8, 8, 3]
    lengths.observe(right=0, wrong=900)
    assert [lengths.choose(rows) for rows in (1, 4)] == [0, 0]
    assert [DraftLengths(3).choose(rows) for rows in (0, 1, 5, 8, 9)] == [0, 3, 2, 1, 0]
