"""Rollouts as a reward model reads them: one end for all, and padding that is no text."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from alignment.errors import RewardError
from alignment.models.decoder.score_model import ScoreOptions, end_scores
from alignment.parallel.build_runner import build_runner
from alignment.parallel.topology import Topology
from alignment.records import Rollout
from alignment.rollout.rewards.retokenize import BeforePadding, Retokenized, SameTokens
from alignment.rollout.rewards.scorers import ModelScorer
from alignment.runs.offline.pairs import REWARD_PAIRS, pair_batch, read_pair_ends
from tests.tiny_models import tiny_score


def rollout(*responses):
    n = len(responses)
    return Rollout(
        prompts=(np.array([5, 6]),) * n,
        responses=tuple(np.array(r) for r in responses),
        finish_reasons=("stop",) * n,
        group_ids=np.arange(n),
    )


def test_another_end_becomes_the_one_that_the_reward_model_knows():
    given = rollout([8, 2], [8, 7], [8, 7, 9], [7, 2])
    rows = SameTokens((2, 7), 2)(given)
    assert [row.tolist() for row in rows] == [[5, 6, 8, 2], [5, 6, 8, 2], [5, 6, 8, 7, 9], [5, 6, 7, 2]]
    assert given.responses[1].tolist() == [8, 7], "the rollout keeps what the policy wrote"


def test_padding_is_cut_at_the_end_only():
    rows = BeforePadding(SameTokens(), 2)(rollout([8, 2], [2, 8, 2, 2], [9]))
    assert [row.tolist() for row in rows] == [[5, 6, 8], [5, 6, 2, 8], [5, 6, 9]]


def retokenized(max_tokens=None, unknown_id=None):
    """The policy's ids are letters; the reward model's ids are ten times theirs, with 99 as its end."""

    def encode(prompt, text):
        return SimpleNamespace(ids=[ord(letter) * 10 for letter in text] + [99])

    encoder = SimpleNamespace(
        encode_prompt=lambda raw: SimpleNamespace(ids=[1, len(raw)], text=f"asked: {raw}"),
        encode_answer=encode,
        unknown_id=unknown_id,
    )
    tokenizer = SimpleNamespace(decode=lambda ids, skip_special_tokens: "".join(map(chr, ids)))
    return Retokenized(tokenizer, encoder, max_tokens=max_tokens)


def test_a_finished_answer_ends_in_the_reward_models_way_and_a_cut_one_does_not():
    given = replace(rollout([3, 4, 5], [3, 4, 5]), inputs=("abc", "abcd"), finish_reasons=("stop", "length"))
    rows = retokenized()(given)
    assert [row.tolist() for row in rows] == [[1, 3, 30, 40, 50, 99], [1, 4, 30, 40, 50]]
    assert all(row.dtype == np.int64 for row in rows)
    assert retokenized().starts(given) == [2, 2], "where the answers begin in the reward model's tokens"


def test_text_that_the_reward_model_does_not_know_is_told_once(caplog):
    """It would score all such answers alike."""
    given = replace(rollout([65, 66], [67, 68]), inputs=("abc", "abcd"))
    sequences, knowing = retokenized(unknown_id=660), retokenized(unknown_id=690)
    for reader in (sequences, sequences, knowing):
        reader(given)
    (said,) = [record.message for record in caplog.records]
    assert "the reward model does not know all the text of 1 of 2 rows" in said and "(10.0% of its tokens" in said
    assert "for example 'abc AB'" in said


@pytest.mark.parametrize("sequences", [SameTokens(), BeforePadding(SameTokens(), 2)])
def test_ppo_averages_over_what_a_reward_model_was_trained_to_average(sequences):
    """A trained pair and a rollout with the same tokens have the same scores."""
    model = tiny_score(ScoreOptions(score_form="average"), seed=1, std=0.5, vocab_size=16)
    runner = build_runner(model, Topology(device="cpu"))
    given = rollout([8, 9, 4], [7])
    scorer = ModelScorer(runner, sequences, rows_per_batch=1, starts=sequences.starts)
    pair = {"better_input_ids": np.array([5, 6, 8, 9, 4]), "worse_input_ids": np.array([5, 6, 7]), "prompt_length": 2}
    (trained,) = runner.forward([pair_batch([pair], REWARD_PAIRS)], read_pair_ends)
    np.testing.assert_allclose(scorer.score(given).values, trained, rtol=1e-5)
    (ends,) = runner.forward([pair_batch([pair], REWARD_PAIRS)], lambda m, b: end_scores(m(b), b.lengths))
    assert trained[0] != ends[0] and trained[1] == ends[1]


def test_a_row_longer_than_the_reward_model_reads_is_refused():
    given = replace(rollout([3, 4]), inputs=("abc",))
    assert [len(row) for row in retokenized(max_tokens=5)(given)] == [5]
    with pytest.raises(RewardError, match="has 5 tokens .*reads at most 4: 'asked: abc'. Lower max_length"):
        retokenized(max_tokens=4)(given)
