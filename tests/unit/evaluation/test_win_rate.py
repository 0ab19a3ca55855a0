"""Win rates against closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from alignment.evaluation.intervals import wilson
from alignment.evaluation.win_rate import rate_at_equal_length, win_rate


def test_counts_and_interval():
    outcomes = np.array([[1.0], [1.0], [0.5], [0.0]])
    found = win_rate(outcomes, np.array([[2.0], [1.0], [0.0], [-1.0]]), np.array([[5], [0], [0], [-1]]))
    assert found.rate == wilson(0.625, 4)
    assert (found.wins, found.ties, found.losses) == (2, 1, 1)
    assert found.margin.value == 0.5
    assert found.length_difference.value == 1.0


def test_comparisons_of_one_prompt_are_one_row():
    """Ten equal comparisons of each prompt say no more than one."""
    outcomes = np.repeat([[1.0], [0.0], [1.0]], 10, axis=1)
    found = win_rate(outcomes, outcomes, outcomes)
    assert found.rate == wilson(2 / 3, 3)
    assert found.wins == 20


def test_the_rate_at_equal_length_is_that_of_the_model_that_made_the_outcomes():
    rng = np.random.default_rng(0)
    lengths = rng.normal(20, 40, 20_000)  # this policy's answers are longer
    logit = 0.5 + 1.5 * np.tanh(lengths / lengths.std())
    outcomes = (rng.random(20_000) < 1 / (1 + np.exp(-logit))).astype(float)
    assert outcomes.mean() > 0.68
    assert rate_at_equal_length(outcomes, lengths) == pytest.approx(1 / (1 + np.exp(-0.5)), abs=0.015)


def test_equal_lengths_leave_the_rate_as_it_is():
    assert rate_at_equal_length([1, 0, 1, 0.5], [0, 0, 0, 0]) == 0.625


@pytest.mark.parametrize(
    ("outcomes", "lengths"), [([1.0], [3]), ([1, 1, 0, 0], [5, 4, -3, -4]), ([1, 0], [3, 3]), ([1, 1, 1], [1, -1, 2])]
)
def test_lengths_that_separate_winners_give_no_rate(outcomes, lengths):
    assert rate_at_equal_length(outcomes, lengths) is None
