"""Whether a reward model is ready for PPO: each doubt has its case, and a good model has none."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from alignment.telemetry.report.page import write_report
from alignment.telemetry.report.readiness import JudgedPairs, OtherTemplate, judge_pairs


def pairs(*, accuracy=0.8, count=1000, confidence=0.78, extra=None, **known):
    """Pairs of which the first are ranked right, with margins that claim ``confidence``."""
    signs = np.where(np.arange(count) < round(accuracy * count), 1.0, -1.0)
    margin = np.log(confidence / (1 - confidence))
    extra = np.resize([1, -1, 0], count) if extra is None else extra
    return JudgedPairs(margins=signs * margin, extra_length=extra, **known)


def rendered(before, after, count=1000):
    """Pairs as they are and in another template, of which the first are ranked right."""
    places = np.arange(count)
    return OtherTemplate("none", places < round(before * count), places < round(after * count))


def table(readiness, title):
    (found,) = (one for one in readiness.tables if one["title"].startswith(title))
    return {row[0]: row[1:] for row in found["rows"]}


def test_a_calibrated_model_without_biases_can_be_trusted():
    found = judge_pairs(pairs(train_accuracy=0.82, other_template=rendered(0.8, 0.75)))
    assert (found.trust, found.reasons) == ("yes", ())
    assert found.line == "the reward model can be trusted for PPO"
    shares = table(found, "Accuracy")
    assert shares["all"] == [1000, 0.8, "0.774 to 0.824"]
    assert shares["all, rendered with the template none"] == [1000, 0.75, "0.722 to 0.776"]
    assert table(found, "Calibration (error 0.020)") == {"0.75 to 0.80": [1000, 0.78, 0.8]}


def test_another_template_is_compared_on_the_pairs_that_were_rendered():
    """0.6 of the first 100, which are ranked right as often as they are: the model does not depend on its template."""
    found = judge_pairs(pairs(other_template=rendered(0.65, 0.6, count=100)))
    assert found.trust == "yes"
    shares = table(found, "Accuracy")
    assert shares["100 of them, as they are"][:2] == [100, 0.65]
    assert shares["100 of them, rendered with the template none"][:2] == [100, 0.6]
    assert "rendered with another template: not measured (see the log)" in table(judge_pairs(pairs()), "Accuracy")


LONG = np.where(np.arange(1000) < 800, 1, -1)
"""Right where the better answer is longer, wrong where it is shorter."""


@pytest.mark.parametrize(
    ("changes", "trust", "reason"),
    [
        ({"accuracy": 0.52}, "no", r"accuracy 0\.520 on 1000 pairs is not surely better than guessing"),
        ({"accuracy": 0.58, "confidence": 0.58}, "no", r"its accuracy is only 0\.580"),
        ({"count": 10}, "no", "is not surely better than guessing") if False else
        ({"subsets": ["a"] * 800 + ["b"] * 200}, "no", r"ranks pairs of dataset b the wrong way round .*0\.000"),
        ({"extra": LONG}, "no", "pairs of better answer shorter the wrong way round"),
        ({"confidence": 0.99}, "with care", r"margins are no probabilities \(calibration error 0\.190"),
        ({"train_accuracy": 0.95}, "with care", r"memorises \(accuracy 0\.950 in training, 0\.800 on held-out"),
        ({"other_template": rendered(0.8, 0.6)}, "with care", r"its template \(accuracy 0\.600 with none\)"),
    ],
)  # fmt: skip
def test_what_speaks_against_a_model_is_said(changes, trust, reason):
    found = judge_pairs(pairs(**changes))
    assert found.trust == trust
    assert re.search(reason, found.line)


def test_a_preference_for_longer_answers_is_told_with_both_accuracies():
    extra = np.concatenate([np.full(450, 1), np.full(350, -1), np.full(50, 1), np.full(150, -1)])
    found = judge_pairs(pairs(extra=extra))
    assert found.trust == "with care"
    assert "prefers longer answers (accuracy 0.900 where the better answer is longer, 0.700" in found.line
    found = judge_pairs(pairs(extra=-extra))
    assert "prefers shorter answers (accuracy 0.700 where the better answer is longer, 0.900" in found.line


def test_accuracy_by_the_given_margin():
    found = judge_pairs(pairs(count=9, accuracy=6 / 9, given_margins=np.arange(9.0)[::-1]))
    shares = table(found, "Accuracy")
    assert [shares[name][:2] for name in shares if "given margin" in name] == [[3, 0.0], [3, 1.0], [3, 1.0]]


def test_small_groups_decide_nothing():
    found = judge_pairs(pairs(subsets=["a"] * 980 + ["b"] * 20))
    assert found.trust == "yes" and table(found, "Accuracy")["dataset b"][1] == 0.0


def test_the_report_shows_it(tmp_path):
    judge_pairs(pairs(confidence=0.99)).save(tmp_path)
    assert json.loads((tmp_path / "readiness.json").read_text())["trust"] == "with care"
    page = write_report(tmp_path, title="RM", summary={}).read_text()
    assert "Ready for PPO?" in page and "The reward model can be trusted with care for PPO" in page
    assert "better answer shorter" in page
