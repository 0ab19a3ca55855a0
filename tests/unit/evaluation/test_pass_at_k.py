"""pass@k against counting all choices."""

from __future__ import annotations

from itertools import combinations

import pytest

from alignment.evaluation.pass_at_k import pass_at_k


@pytest.mark.parametrize("n", range(1, 7))
def test_it_is_the_share_of_choices_with_a_correct_answer(n):
    for correct in range(n + 1):
        for k in range(1, n + 1):
            chosen = [*combinations([1] * correct + [0] * (n - correct), k)]
            assert pass_at_k(n, correct, k) == pytest.approx(sum(map(any, chosen)) / len(chosen))
