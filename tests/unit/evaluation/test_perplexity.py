"""Perplexity and the windows of long rows."""

from __future__ import annotations

import math

import pytest

from alignment.evaluation.perplexity import perplexity, windows


def test_a_long_row_counts_by_its_tokens_or_as_one_row():
    """Losses of 1 nat on 9 tokens and 2 nats on 1 token."""
    found = perplexity([9.0, 2.0], [9, 1])
    assert found.loss.value == pytest.approx(1.1)
    assert found.of_tokens.value == pytest.approx(math.exp(1.1))
    assert found.of_rows.value == pytest.approx((math.e + math.e**2) / 2)
    assert found.of_tokens.low == pytest.approx(math.e)
    assert found.of_tokens.high == pytest.approx(math.e**2)


def test_a_hopeless_row_does_not_overflow():
    assert math.isfinite(perplexity([1e5], [1]).of_tokens.value)


@pytest.mark.parametrize("length", range(2, 40))
@pytest.mark.parametrize(("longest", "stride"), [(8, 4), (8, 7), (5, 1), (16, 8)])
def test_windows_count_every_token_once_with_context(length, longest, stride):
    found = windows(length, longest=longest, stride=stride)
    counted = [position for one in found for position in range(one.first, one.end)]
    assert counted == [*range(1, length)]
    for one in found:
        assert one.end - one.start <= longest
        assert one.start == 0 or one.first - one.start >= longest - stride
        assert one.first > one.start


def test_a_row_that_fits_is_one_window():
    assert windows(4, longest=4, stride=2) == [(0, 4, 1)]
