"""The verdict on process reward models and on attributes: each number by hand, each doubt by name."""

from __future__ import annotations

import numpy as np
import pytest

from alignment.telemetry.report.readiness import OtherTemplate
from alignment.telemetry.report.readiness_attributes import (
    JudgedAttribute,
    OtherCorrelation,
    fisher,
    fit,
    judge_attributes,
)
from alignment.telemetry.report.readiness_steps import JudgedSteps, judge_steps, ranked_share


def table(readiness, title):
    (found,) = (one for one in readiness.tables if one["title"].startswith(title))
    return {row[0]: row[1:] for row in found["rows"]}


def steps_of(*, wrong=(), count=200, confidence=3.0, **changes):
    """Answers of 3 steps; of every second one the last step is bad. Those in ``wrong`` are misjudged."""
    good = np.ones((count, 3), bool)
    good[::2, 2] = False
    good = good.reshape(-1)
    scores = np.where(good, confidence, -confidence)
    scores[list(wrong)] *= -1
    answers = np.repeat(np.arange(count), 3)
    least = scores.reshape(-1, 3).min(axis=1)
    made = {
        "scores": scores, "good": good, "positions": np.tile([1, 2, 3], count), "answers": answers,
        "answer_scores": 1 / (1 + np.exp(-least)), "lengths": np.tile([4.0, 4.0, 6.0, 6.0], count // 4),
    }  # fmt: skip
    return JudgedSteps(**{**made, **changes})


def test_accuracy_by_position_and_label_and_the_ranking_of_answers():
    """Of the 100 bad steps 20 are taken for good: those answers score as high as good ones."""
    found = judge_steps(steps_of(wrong=[3 * n + 2 for n in range(0, 40, 2)]))
    shares = table(found, "Accuracy")
    assert [shares[name][:2] for name in ("all", "good", "bad", "step 1", "step 2", "step 3")] == [
        [600, 0.9667], [500, 1.0], [100, 0.8], [200, 1.0], [200, 1.0], [200, 0.9]
    ]  # fmt: skip
    answers = table(found, "Whole answers")
    assert answers["a good answer scores higher than another"] == [10_000, 0.9]
    assert answers["mean score where all steps are good"] == [100, 0.953]
    assert answers["correlation of being good with the length"] == [200, 0.0]
    assert (found.trust, found.reasons) == ("yes", ())


@pytest.mark.parametrize(
    ("changes", "trust", "reason"),
    [
        ({"wrong": [3 * n + 2 for n in range(0, 200, 2)]}, "no", "0.833 on 600 steps is not surely better"),
        ({"wrong": [3 * n + 2 for n in range(0, 140, 2)]}, "no", "steps of the group 'bad' wrongly (accuracy 0.300)"),
        ({"answer_scores": np.tile([0.9, 0.1], 100)}, "no", "it ranks the good one higher in only 0.000"),
        ({"confidence": 0.5}, "with care", "its probabilities are off (calibration error 0.378)"),
        ({"train_accuracy": 1.2}, "with care", "it memorises (accuracy 1.200 in training, 1.000"),
        ({"lengths": np.tile([1.0, 9.0], 100), "answer_scores": np.tile([0.1, 0.9], 100)}, "yes", "can be trusted"),
        (
            {"other_template": OtherTemplate("none", np.ones(10, bool), np.arange(10) < 6)}, "with care",
            "it depends on its template (accuracy 0.600 with none)",
        ),
    ],
)  # fmt: skip
def test_what_speaks_against_a_model_of_steps_is_said(changes, trust, reason):
    found = judge_steps(steps_of(**changes))
    assert found.trust == trust and reason in found.line


def test_a_score_that_follows_the_length_more_than_the_labels_do_is_told():
    lengths = np.tile([4.0, 4.0, 6.0, 6.0], 50)
    scores = np.where(lengths > 5, 0.9, 0.1) - 0.05 * np.tile([1.0, 0.0], 100)
    found = judge_steps(steps_of(lengths=lengths, answer_scores=scores))
    assert "the score follows the length of answers (+1.00, the given values +0.00)" in found.line


def test_the_ranking_counts_ties_half():
    good = np.array([True, True, False, False])
    assert ranked_share(np.array([0.5, 0.9, 0.5, 0.1]), good) == pytest.approx((0.5 + 1 + 1 + 1) / 4)
    assert ranked_share(np.array([0.5, 0.9]), np.array([True, True])) is None


def test_datasets_of_steps_are_shown_apart():
    subsets = ["a"] * 100 + ["b"] * 100
    found = judge_steps(steps_of(wrong=range(0, 120), subsets=subsets))
    shares = table(found, "Accuracy")
    assert shares["dataset a"][:2] == [300, 0.6] and shares["dataset b"][:2] == [300, 1.0]


def attribute(**changes):
    """200 answers whose given values go up and down; predictions are right."""
    given = np.tile([1.0, 3.0, 2.0, 4.0], 50)
    made = {"name": "a", "predicted": given.copy(), "given": given, "lengths": np.arange(200.0) % 7}
    return JudgedAttribute(**{**made, **changes})


def test_an_attribute_is_ranked_by_given_margin_and_dataset_and_fitted_in_bins():
    """Pairs (1, 3) and (2, 4); in the second dataset all predictions are turned round."""
    given = np.tile([1.0, 3.0, 2.0, 4.0], 50)
    predicted = np.where(np.arange(200) < 100, given, 5.0 - given)
    found = judge_attributes([attribute(predicted=predicted, subsets=["x"] * 100 + ["y"] * 100)])
    shares = table(found, "Accuracy")
    assert shares["a: all"][:2] == [100, 0.5]
    assert shares["a: dataset x"][:2] == [50, 1.0] and shares["a: dataset y"][:2] == [50, 0.0]
    assert found.trust == "no" and "pairs of dataset y are ranked the wrong way round (0.000)" in found.line


def test_predictions_that_are_off_are_told_in_standard_deviations():
    off, rows = fit(np.array([1.0, 2, 3, 4, 5]) + 1, np.array([1.0, 2, 3, 4, 5]))
    assert off == pytest.approx(1 / np.std([1, 2, 3, 4, 5])) and rows[0] == [1, 2.0, 1.0]
    found = judge_attributes([attribute(predicted=attribute().given + 1.0)])
    assert found.trust == "with care" and "predictions are off by 0.89 standard deviations" in found.line


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"train_correlation": 1.2}, "a: it memorises (correlation 1.200 in training, 1.000 on held-out rows)"),
        (
            {"other_template": OtherCorrelation("pku", 0.9, 0.3)},
            "a depends on its template (correlation 0.300 with pku, 0.900 as they are)",
        ),
    ],
)
def test_what_speaks_against_an_attribute_is_said(changes, reason):
    found = judge_attributes([attribute(**changes)])
    assert found.trust == "with care" and reason in found.line


def test_a_missing_value_is_in_no_pair_and_no_bin():
    given = np.tile([1.0, 3.0, np.nan, 4.0], 50)
    found = judge_attributes([attribute(given=given, predicted=np.tile([1.0, 3.0, 9.0, 4.0], 50))])
    assert table(found, "Accuracy")["a: all"][:2] == [50, 1.0] and found.trust == "yes"
    assert sum(row[1] for row in found.tables[2]["rows"]) == 150


def noisy(strength, *, with_length=0.0):
    """An attribute whose predictions have about this correlation with the given values, or with the length."""
    draws = np.random.default_rng(0).standard_normal((3, 400))
    draws -= draws.mean(axis=1, keepdims=True)
    given, rest, lengths = np.linalg.qr(draws.T)[0].T * 20
    predicted = strength * given + with_length * lengths + np.sqrt(1 - strength**2 - with_length**2) * rest
    return {"given": given, "predicted": strength * predicted, "lengths": lengths}


@pytest.mark.parametrize(
    ("strengths", "trust", "reason"),
    [
        ([0.9, 0.8], "yes", ""),
        ([0.9, 0.3], "with care", "predicted badly (correlation below 0.5): b"),
        ([0.2, 0.1], "no", "predicted badly (correlation below 0.5): a, b"),
    ],
)
def test_attributes_that_are_predicted_badly_are_named(strengths, trust, reason):
    found = judge_attributes([JudgedAttribute(name, **noisy(s)) for name, s in zip("ab", strengths, strict=True)])
    assert [round(row[1], 2) for row in found.tables[0]["rows"]] == strengths
    assert found.trust == trust and reason in found.line


@pytest.mark.parametrize("count", [2, 3, 5, 8, 30])
def test_an_attribute_that_is_guessed_is_hardly_ever_trusted(count):
    """2.5 % of draws may exceed the upper end of a 95 % interval."""
    draws = np.random.default_rng(0)

    def guess():
        predicted, given, lengths = draws.standard_normal((3, count))
        return JudgedAttribute("a", predicted, given, lengths)

    trusted = sum(judge_attributes([guess()]).trust != "no" for _ in range(400))
    assert trusted <= (0 if count <= 3 else 400 * 0.05)


def test_a_correlation_of_few_answers_is_told_with_its_interval():
    """Of 4 answers, one without a value: Fisher's interval of three is all there is."""
    given = np.array([1.0, 2, 3, np.nan])
    found = judge_attributes([attribute(given=given, predicted=np.array([1.0, 2, 3.5, 9]), lengths=np.arange(4.0))])
    assert found.tables[0]["rows"][0][1:4] == [0.993, "-1.000 to 1.000", 3]
    assert found.reasons[0] == "a: its correlation 0.993 on 3 answers is not surely better than guessing"
    assert found.trust == "no"
    constant = judge_attributes([attribute(predicted=np.ones(200))])
    assert constant.tables[0]["rows"][0][1:4] == [None, None, 200]


def test_the_interval_of_a_correlation():
    """atanh(0.5) = 0.5493, and 1.96 / sqrt(100) = 0.196 to both sides."""
    assert fisher(0.5, 103) == pytest.approx((0.3393, 0.6323), abs=1e-4)
    assert fisher(1.0, 4)[0] > 0.99 and fisher(-1.0, 4)[1] < -0.99


def test_an_attribute_that_follows_the_length_is_told():
    found = judge_attributes([JudgedAttribute("a", **noisy(0.6, with_length=0.75))])
    assert "a follows the length of answers (+0.75, the given values -0.00)" in found.line.replace("+0.00)", "-0.00)")
