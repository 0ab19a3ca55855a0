"""The final number of an answer: where it is looked for, and which ways to write it are equal."""

from fractions import Fraction

import pytest

from alignment.errors import RewardError
from alignment.rollout.rewards.answers import final_number
from alignment.rollout.rule_rewards import numbers


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (r"First 7, so \boxed{\frac{1}{2}}.", "1/2"),
        (r"\boxed{1} is wrong, \boxed{-\dfrac{3}{4}} is right, with 9 steps", "-3/4"),
        (r"\boxed{12\text{ apples in 3 bags}}", "12"),
        (r"\boxed{\{5\}}", "5"),
        ("Natalia sold 48/2 = 24.\n#### 1,234\nmore 5", "1234"),
        ("#### -$5.50", "-11/2"),
        ("7 and 8, so it is 3/4", "3/4"),
        ("The total is 1,234,567 dollars.", "1234567"),
        ("5-3", "3"),
        ("\u22127", "-7"),
        ("50%", "50"),
        ("1.5e3 m", "1500"),
        (".25", "1/4"),
        ("10 km/h", "10"),
        (r"3{,}000", "3000"),
    ],
)
def test_a_number_by_hand(text, number):
    assert final_number(text) == Fraction(number)


@pytest.mark.parametrize("text", ["no number", "", "####", r"\boxed{}", "1/0", r"9 \boxed{x}"])
def test_there_is_none(text):
    assert final_number(text) is None


def test_numbers_are_equal_exactly_or_within_a_tolerance():
    responses, labels = ["0.5", r"\boxed{2/4}", "0.333", "none"], ["1/2", "so\n#### 0.50", "1/3", "4"]
    assert numbers([""] * 4, responses, labels) == {"score": [1, 1, 0, 0], "no_answer": [0, 0, 0, 1]}
    assert numbers([""] * 4, responses, labels, tolerance=0.002)["score"] == [1, 1, 1, 0]


@pytest.mark.parametrize("label", [None, "", "unknown"])
def test_a_row_without_a_number_to_compare_with_is_named(label):
    with pytest.raises(RewardError, match="row 1 has no number to compare with.*label_key"):
        numbers(["", ""], ["1", "1"], ["1", label])
