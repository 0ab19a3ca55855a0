"""Several sources of rewards: their sum, the scores of each, failures and running statistics, by hand."""

import numpy as np
import pytest

from alignment.errors import NotFiniteError, RewardError
from alignment.records import Rollout
from alignment.rollout.judge import Judge
from alignment.rollout.metrics import describe_sources
from alignment.rollout.rewards.combined import CombinedScorer, RewardSource
from alignment.rollout.rewards.reward_normalization import RunningRewardNormalizer
from alignment.rollout.rewards.scorers import Scorer, Scores

ROLLOUT = Rollout(
    prompts=(np.array([1]),) * 4,
    responses=tuple(np.arange(n) for n in (1, 2, 3, 4)),
    finish_reasons=("stop",) * 4,
    group_ids=np.array([0, 0, 1, 1]),
    inputs=("a", "a", "b", "b"),
    labels=(None,) * 4,
)


class Fixed(Scorer):
    """Gives the same scores at every call."""

    def __init__(self, *values, valid=None, notes=None):
        self.scores = Scores(np.array(values, np.float32), valid, notes=notes or {})

    def score(self, rollout):
        return self.scores


def combine(*sources, **normalizers):
    return CombinedScorer(
        [
            RewardSource(log_as=name, scorer=scorer, factor=factor, normalize=normalizers.get(name))
            for name, scorer, factor in sources
        ]
    )


def test_the_reward_is_the_weighted_sum_and_each_source_is_kept():
    scores = combine(("good", Fixed(1, 2, 3, 4), 0.5), ("cost", Fixed(10, 0, 1, 2), -2.0)).score(ROLLOUT)
    np.testing.assert_array_equal(scores.values, np.array([0.5 - 20, 1, 1.5 - 2, 2 - 4], np.float32))
    assert scores.valid is None
    np.testing.assert_array_equal(scores.by_source["cost"], [10, 0, 1, 2])


def test_one_source_of_weight_one_gives_its_own_bits():
    values = np.float32([0.1, 1 / 3, -7e-8, 2e30])
    assert combine(("only", Fixed(*values), 1.0)).score(ROLLOUT).values.tobytes() == values.tobytes()


def test_a_row_that_one_source_could_not_score_has_no_reward():
    some = np.array([True, True, False, False])
    scorer = combine(("good", Fixed(1, 2, 3, 4), 1.0), ("rule", Fixed(5, 6, 0, 0, valid=some), 1.0))
    scores = scorer.score(ROLLOUT)
    np.testing.assert_array_equal(scores.valid, some)
    np.testing.assert_array_equal(scores.by_source["rule"], [5, 6, np.nan, np.nan])
    judged = ROLLOUT.with_fields(source_scores=scores.by_source, valid=scores.valid)
    assert describe_sources(judged) == {
        "reward/good_mean": 2.5, "reward/good_std": pytest.approx(np.std([1, 2, 3, 4])), "reward/good_failed_share": 0,
        "reward/rule_mean": 5.5, "reward/rule_std": 0.5, "reward/rule_failed_share": 0.5,
    }  # fmt: skip


def test_notes_of_a_source_are_logged_under_its_name():
    scorer = combine(("code", Fixed(1, 0, 0, 1, notes={"timeout": np.float32([0, 1, 1, 1])}), 1.0))
    assert describe_sources(ROLLOUT.with_fields(score_notes=scorer.score(ROLLOUT).notes)) == {
        "reward/code_timeout_share": 0.75
    }


def test_each_source_is_normalised_alone_before_its_weight():
    normalizer, by_hand = RunningRewardNormalizer(), RunningRewardNormalizer()
    some = np.array([True, True, True, False])
    scorer = combine(
        ("good", Fixed(100, 200, 300, 0, valid=some), 3.0), ("rule", Fixed(1, 0, 1, 0), 1.0), good=normalizer
    )
    judge = Judge(
        policy=None, reference=None, critic=None, scorer=scorer, normalize=scorer.normalize, logprob_rows=1,
        value_rows=1, temperature=1.0,
    )  # fmt: skip
    found = judge._normalized(scorer.score(ROLLOUT))
    expected = 3 * by_hand(np.float32([100, 200, 300])).astype(np.float64) + [1, 0, 1]
    np.testing.assert_allclose(found, [*expected, 0], rtol=1e-6)
    np.testing.assert_allclose(found[:3], [3 * -1 + 1, 0, 3 * 1 + 1], atol=1e-6)
    assert normalizer.state() == by_hand.state(), "a masked row is not counted"


def test_running_statistics_of_each_source_are_restored():
    sources = [("a", Fixed(1, 2, 3, 5), 1.0), ("b", Fixed(0, 9, 1, 4), 2.0), ("c", Fixed(1, 1, 2, 2), 1.0)]
    first = combine(*sources, a=RunningRewardNormalizer(), b=RunningRewardNormalizer(), c=lambda x: x)
    first.normalize(first.score(ROLLOUT).columns)
    again = combine(*sources, a=RunningRewardNormalizer(), b=RunningRewardNormalizer(), c=lambda x: x)
    again.load_state(first.state())
    assert set(first.state()) == {"a", "b"}
    columns = np.float32([[3, 4, 5], [6, 7, 8]])
    assert first.normalize(columns).tobytes() == again.normalize(columns).tobytes()
    fresh = combine(*sources, a=RunningRewardNormalizer(), b=RunningRewardNormalizer(), c=lambda x: x)
    assert not np.array_equal(fresh.normalize(columns), again.normalize(columns))


def test_errors_name_the_source_and_a_sum_beyond_float32_is_one():
    class Broken(Scorer):
        def score(self, rollout):
            raise NotFiniteError("the score of row 1 is nan", "reward model")

    with pytest.raises(NotFiniteError, match="source bad: the score of row 1 is nan"):
        combine(("good", Fixed(1, 2, 3, 4), 1.0), ("bad", Broken(), 1.0)).score(ROLLOUT)
    with pytest.raises(RewardError, match="weighted sum of big is .* for row 0: lower their weights"):
        combine(("big", Fixed(3e38, 0, 0, 0), 10.0)).score(ROLLOUT)


def test_a_source_of_weight_zero_is_only_logged():
    scores = combine(("good", Fixed(1, 2, 3, 4), 1.0), ("watched", Fixed(9, 9, 9, 9), 0.0)).score(ROLLOUT)
    np.testing.assert_array_equal(scores.values, [1, 2, 3, 4])
    np.testing.assert_array_equal(scores.by_source["watched"], [9, 9, 9, 9])


def test_sources_that_fail_in_different_groups_leave_no_reward_and_are_named():
    first, second = np.array([True, True, False, False]), np.array([False, False, True, True])
    sources = [("good", Fixed(1, 2, 0, 0, valid=first), 1.0), ("rule", Fixed(0, 0, 3, 4, valid=second), 1.0)]
    said = r"every row of the rollout has a source that failed \(good, rule\); nothing to learn from"
    with pytest.raises(RewardError, match=said):
        combine(*sources, ("fine", Fixed(1, 1, 1, 1), 1.0)).score(ROLLOUT)
