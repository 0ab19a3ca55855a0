"""Repetition within a response and overlap between responses, by hand."""

import numpy as np
import pytest

from alignment.rollout.variety import PairSets


def _rows(*rows):
    return [np.array(row) for row in rows]


@pytest.mark.parametrize(
    ("response", "share"), [([7, 7, 7, 7], 2 / 3), ([1, 2, 3, 1, 2], 1 / 4), ([1, 2, 3], 0), ([5], 0)]
)
def test_repeated_are_the_pairs_that_a_response_already_had(response, share):
    assert PairSets.of(_rows(response)).repetition() == pytest.approx(share)


def test_overlap_compares_each_response_with_one_to_the_next_prompt():
    """[1 2 3] and [1 2 4] share one of three pairs; responses to one prompt are not compared."""
    one = _rows([1, 2, 3], [1, 2, 3], [1, 2, 4], [9, 8])
    assert PairSets.of(one).overlap(np.array([0, 0, 1, 1])) == pytest.approx(np.mean([1 / 3, 0, 1 / 3, 0]))
    assert PairSets.of(_rows([5], [5], [6])).overlap(np.array([0, 1, 2])) == pytest.approx(1 / 3)
    assert PairSets.of(one).overlap(np.array([0, 0, 0, 0])) is None


def test_pairs_never_span_two_responses():
    responses = [np.array([1, 2]), np.array([5]), np.array([1, 2, 1, 2]), np.array([], np.int64), np.array([2, 1])]
    assert PairSets.of(responses).repetition() == pytest.approx((0 + 0 + 1 / 3 + 0 + 0) / 5)
