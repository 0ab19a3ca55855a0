"""The rule of GSM8K: the number after the last ####."""

from __future__ import annotations

import pytest

from alignment.errors import RewardError
from alignment.rollout.rule_rewards import excess_words, gsm8k


@pytest.mark.parametrize(
    ("response", "label", "reward"),
    [
        ("so 5. #### 72", "48 and 24. #### 72", 1.0),
        ("#### 71", "#### 72", 0.0),
        ("72", "#### 72", 0.0),
        ("#### 7 no, #### 72", "72", 1.0),
        ("#### 1,072", "#### 1072", 1.0),
        ("#### -3.", "#### -3", 1.0),
        ("", "#### 72", 0.0),
    ],
)
def test_rewards(response, label, reward):
    assert gsm8k(["q"], [response], [label]) == [reward]


@pytest.mark.parametrize("label", [None, "", "seventy-two"])
def test_a_row_without_an_answer_is_an_error_and_no_zero(label):
    with pytest.raises(RewardError, match="row 1 has no answer"):
        gsm8k(["q", "q"], ["#### 1", "#### 1"], ["1", label])


def test_words_beyond_the_limit_are_counted():
    assert excess_words(["p"] * 3, ["a b", "a b c d", ""], [None] * 3, limit=2) == [0.0, -2.0, 0.0]
