"""Rewards from comparisons: who wins how often, against whom, and what is refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import paddle
import pytest

from alignment.data.comparison import PairQuestion
from alignment.data.encode import Encoder
from alignment.data.sources.packing import TOKENIZER
from alignment.errors import NotFiniteError, RewardError
from alignment.models.tokenizer.tokenizer import load_tokenizer
from alignment.parallel.build_runner import build_runner
from alignment.parallel.topology import Topology
from alignment.records import Rollout
from alignment.rollout.rewards.pairwise_scores import Asked, PairwiseReader, PairwiseScorer, StartScorer
from alignment.telemetry import log
from tests.tiny_models import tiny_causal

QUESTION = PairQuestion(
    template="{context} <eos> {response_A} <eos> {response_B}", turn="{content}", letters=("apple", "boots")
)
WORDS = ["rope", "tent done", "map", "rope lamp", "tent"]


@pytest.fixture
def tokenizer():
    return load_tokenizer(TOKENIZER)


def reader(tokenizer, max_tokens=64):
    return PairwiseReader(QUESTION, tokenizer, tokenizer, Encoder(tokenizer, "tokenizer"), max_tokens=max_tokens)


def scorer(tokenizer, model=None, rows=3, **options):
    model = model or tiny_causal(seed=1, std=0.3, vocab_size=24)
    return PairwiseScorer(
        build_runner(model, Topology(device="cpu")), reader(tokenizer, **options), rows_per_batch=rows
    )


def rollout_of(tokenizer, texts, groups):
    ids = [np.array([*tokenizer(text, add_special_tokens=False)["input_ids"], 2]) for text in texts]
    return Rollout(
        prompts=tuple(np.array([1, 4, 6 + group]) for group in groups),
        responses=tuple(ids),
        finish_reasons=("stop",) * len(texts),
        group_ids=np.array(groups),
        inputs=tuple(f"pack {WORDS[group]}" for group in groups),
        labels=(None,) * len(texts),
    )


class Longest:
    """Prefers the longer of two responses by that many tokens, and the first place by 2."""

    def forward(self, batches, read):
        found = []
        for batch in batches:
            odds = []
            for row, length in zip(batch.input_ids, batch.lengths, strict=True):
                _, first, second = np.split(row[: length - 2], np.flatnonzero(row[: length - 2] == 2))
                odds.append(len(first) - len(second) + 2.0)
            odds = np.array(odds)
            found.append(np.stack([-np.logaddexp(0, -odds), -np.logaddexp(0, odds)], -1))
        return found


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_a_response_scores_its_mean_chance_against_the_others_of_its_prompt(tokenizer):
    rollout = rollout_of(tokenizer, ["rope", "rope tent", "rope tent map map", "map", "map"], [0, 0, 0, 1, 1])
    found = PairwiseScorer(Longest(), reader(tokenizer), rows_per_batch=2).score(rollout)
    sizes, expected = [1, 2, 4], []
    for one in sizes:
        chances = [(sigmoid(one - other + 2) + 1 - sigmoid(other - one + 2)) / 2 for other in sizes if other is not one]
        expected.append(np.mean(chances))
    np.testing.assert_allclose(found.values, [*expected, 0.5, 0.5], rtol=1e-6)
    assert found.values.dtype == np.float32 and found.valid is None


def test_the_model_reads_each_ordered_pair_of_a_group_once(tokenizer):
    rows = []

    class Counting(Longest):
        def forward(self, batches, read):
            rows.extend(batch.num_rows for batch in batches)
            return super().forward(batches, read)

    rollout = rollout_of(tokenizer, WORDS[:4] * 2, [0] * 4 + [1] * 4)
    PairwiseScorer(Counting(), reader(tokenizer), rows_per_batch=5).score(rollout)
    assert rows == [5, 5, 5, 5, 4], "2 prompts, 4 * 3 comparisons each"


def test_equal_responses_are_not_compared_and_equal_comparisons_are_read_once(tokenizer):
    rows = []

    class Counting(Longest):
        def forward(self, batches, read):
            rows.extend(batch.num_rows for batch in batches)
            return super().forward(batches, read)

    judge = PairwiseScorer(Counting(), reader(tokenizer), rows_per_batch=5)
    found = judge.score(rollout_of(tokenizer, ["map", "map", "rope tent"], [0, 0, 0])).values
    against = (sigmoid(1 - 2 + 2) + 1 - sigmoid(2 - 1 + 2)) / 2
    np.testing.assert_allclose(found, [(0.5 + against) / 2] * 2 + [1 - against], rtol=1e-6)
    assert rows == [2], "map before rope tent, and the reverse"
    assert judge.score(rollout_of(tokenizer, ["map", "map"], [0, 0])).values.tolist() == [0.5, 0.5] and rows == [2]


def test_the_question_is_written_as_in_training(tokenizer):
    batch = reader(tokenizer).batch([Asked("pack rope", "rope done", "tent")])
    text = tokenizer.decode(batch.input_ids[0].tolist(), skip_special_tokens=False)
    assert text == "<bos> <user> pack rope <eos> rope done <eos> tent <assistant> apple"
    assert tokenizer.decode(batch.fields["others"].tolist(), skip_special_tokens=True) == "boots"


def test_scores_depend_neither_on_batches_nor_on_the_order_of_rows(tokenizer):
    rollout = rollout_of(tokenizer, WORDS[:4], [0, 0, 1, 1])
    whole = scorer(tokenizer, rows=64).score(rollout).values
    assert len(set(np.round(whole, 6).tolist())) == 4
    np.testing.assert_allclose(scorer(tokenizer, rows=1).score(rollout).values, whole, atol=1e-6)
    order = [2, 0, 3, 1]
    mixed = rollout_of(tokenizer, [WORDS[i] for i in order], [[0, 0, 1, 1][i] for i in order])
    np.testing.assert_allclose(scorer(tokenizer).score(mixed).values, whole[order], atol=1e-6)
    np.testing.assert_allclose(whole.reshape(2, 2).sum(-1), 1.0, atol=1e-6)


def test_what_is_not_finite_is_an_error(tokenizer):
    model = tiny_causal(seed=1, std=0.3, vocab_size=24)
    weight = next(iter(model.parameters()))
    weight.set_value(paddle.full_like(weight, float("nan")))
    with pytest.raises(NotFiniteError, match="2 of 2 comparisons are NaN or infinite"):
        scorer(tokenizer, model).score(rollout_of(tokenizer, WORDS[:2], [0, 0]))


def test_a_comparison_that_is_too_long_is_an_error_and_never_cut(tokenizer):
    with pytest.raises(RewardError, match=r"has 11 tokens, and the pairwise reward model reads at most 9"):
        scorer(tokenizer, max_tokens=9).score(rollout_of(tokenizer, WORDS[:2], [0, 0]))


def test_a_model_that_answers_something_else_is_told_once(tokenizer, monkeypatch):
    told = []
    monkeypatch.setattr(log, "warn", told.append)
    judge = scorer(tokenizer)
    for _ in range(2):
        judge.score(rollout_of(tokenizer, WORDS[:2], [0, 0]))
    assert len(told) == 1 and "it does not seem to answer the question" in told[0]


def test_held_out_responses_are_compared_with_the_first_ones(tokenizer):
    judge = StartScorer(PairwiseScorer(Longest(), reader(tokenizer), rows_per_batch=4))
    start = rollout_of(tokenizer, ["rope", "rope tent"], [0, 1])
    np.testing.assert_array_equal(judge.score(start).values, [0.5, 0.5])
    later = dataclasses.replace(start, responses=rollout_of(tokenizer, ["rope tent", "rope tent"], [0, 1]).responses)
    expected = (sigmoid(1 + 2) + 1 - sigmoid(-1 + 2)) / 2
    np.testing.assert_allclose(judge.score(later).values, [expected, 0.5], rtol=1e-6)

    resumed = StartScorer(PairwiseScorer(Longest(), reader(tokenizer), rows_per_batch=4))
    resumed.load_state(judge.state())
    np.testing.assert_array_equal(resumed.score(later).values, judge.score(later).values)
    others = rollout_of(tokenizer, ["map"], [2])
    assert resumed.score(others).values.tolist() == [0.5], "other prompts: a new start"


def test_a_policy_with_another_tokenizer_is_read_as_text(tokenizer):
    class Shifted:
        def decode(self, ids, *, skip_special_tokens):
            return tokenizer.decode([i - 100 for i in ids], skip_special_tokens=skip_special_tokens)

    rollout = rollout_of(tokenizer, WORDS[:4], [0, 0, 1, 1])
    own = scorer(tokenizer)
    of_others = dataclasses.replace(rollout, responses=tuple(ids + 100 for ids in rollout.responses))
    encoder = Encoder(tokenizer, "tokenizer")
    other = PairwiseReader(QUESTION, Shifted(), tokenizer, encoder, max_tokens=64)
    judge = PairwiseScorer(own._runner, other, rows_per_batch=3)
    np.testing.assert_array_equal(judge.score(of_others).values, own.score(rollout).values)
