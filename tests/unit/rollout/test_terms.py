"""Terms that are added to scores, by hand."""

import numpy as np
import pytest

from alignment.records import Rollout
from alignment.rollout.judge import Judge
from alignment.rollout.metrics import describe_sources
from alignment.rollout.rewards.scorers import Scores
from alignment.rollout.rewards.terms import TERMS, Judgement, ScoreTerms

TEXTS = ["<think>a</think><answer>4</answer>", "<answer>4</answer><think>a</think>", "<think>a</think> <answer>4", ""]
JUDGED = Judgement(
    scores=np.float32([2, -1, 4, 0.5]),
    lengths=np.array([10, 75, 90, 100]),
    limits=np.array([100, 100, 100, 100]),
    stopped=np.array([True, True, True, False]),
    texts=lambda: TEXTS,
)


@pytest.mark.parametrize(
    ("name", "numbers", "expected"),
    [
        ("missing_eos", {"penalty": 1.5}, [0, 0, 0, -1.5]),
        ("stop_properly", {"coef": 0.25}, [0, 0, 0, -0.375]),
        ("overlong", {"buffer": 50, "factor": 2.0}, [0, -1.0, -1.6, -2.0]),
        ("overlong", {"buffer": 20, "factor": 1.0}, [0, 0, -0.5, -1.0]),
        ("length", {"coeff": 0.01}, [-0.1, -0.75, -0.9, -1.0]),
        ("format", {"pattern": "<think>.*</think>.*", "weight": 3.0}, [3, 0, 3, 0]),
        ("tags", {"tags": ("think", "answer"), "weight": 0.5}, [0.5, 0, 0, 0]),
    ],
)
def test_a_term_by_hand(name, numbers, expected):
    np.testing.assert_allclose(TERMS[name](JUDGED, **numbers), expected, rtol=1e-12)


def test_every_term_has_a_number_by_hand():
    marks = test_a_term_by_hand.pytestmark[0].args[1]
    assert {name for name, _, _ in marks} == set(TERMS)


def test_a_tag_twice_or_never_closed_earns_nothing():
    texts = ["<a>x</a>", "<a>x</a><a>y</a>", "<a>x", "x</a><a>", "before <a>x</a> behind"]
    found = TERMS["tags"](JUDGED._replace(texts=lambda: texts), tags=("a",), weight=1.0)
    np.testing.assert_array_equal(found, [1, 0, 0, 0, 1])


def test_a_pattern_reaches_over_lines_and_must_match_everything():
    texts = ["Answer:\n4", "An Answer:\n4"]
    found = TERMS["format"](JUDGED._replace(texts=lambda: texts), pattern="Answer:.4", weight=1.0)
    np.testing.assert_array_equal(found, [1, 0])


class Fixed:
    """Scores 1, 2, 3."""

    def score(self, rollout):
        return Scores(np.float32([1, 2, 3]), None)


def test_terms_follow_normalisation_and_are_logged_apart():
    rollout = Rollout(
        prompts=tuple(np.arange(n) for n in (2, 2, 6)),
        responses=tuple(np.arange(n) for n in (3, 6, 4)),
        finish_reasons=("stop", "length", "length"),
        group_ids=np.arange(3),
        inputs=("a", "b", "c"),
        labels=(None,) * 3,
    )
    terms = ScoreTerms(
        numbers={"missing_eos": {"penalty": 1.0}, "overlong": {"buffer": 2, "factor": 4.0}},
        limits=lambda rollout: np.minimum(6, 10 - rollout.prompt_lengths),
        decode=str,
    )
    judge = Judge(
        policy=None, reference=None, critic=None, scorer=Fixed(), normalize=lambda raw: raw * 10, logprob_rows=1,
        value_rows=1, temperature=1.0, terms=terms,
    )  # fmt: skip
    total, found = judge._add_terms(rollout, judge._normalized(judge.scorer.score(rollout)))
    np.testing.assert_array_equal(total, [10, 20 - 1 - 4, 30 - 1 - 4])
    assert describe_sources(rollout.with_fields(score_terms=found)) == {
        "reward/missing_eos_term": pytest.approx(-2 / 3),
        "reward/overlong_term": pytest.approx(-8 / 3),
    }
    plain = Judge(
        policy=None, reference=None, critic=None, scorer=Fixed(), normalize=None, logprob_rows=1, value_rows=1,
        temperature=1.0,
    )  # fmt: skip
    scores = plain._normalized(plain.scorer.score(rollout))
    assert plain._add_terms(rollout, scores)[0] is scores, "without terms no number moves"
