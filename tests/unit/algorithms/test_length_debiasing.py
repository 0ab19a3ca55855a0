"""What a token is worth to a score, against numbers worked out by hand and against every order there is."""

from __future__ import annotations

import numpy as np
import pytest

from alignment.algorithms.length_debiasing import length_penalty, spearman


def test_pearsons_penalty_is_the_slope_of_the_scores_over_the_length():
    """Lengths 1, 2, 3 and scores 1, 2, 6: covariance (5 / 3) over variance (2 / 3) is 2.5."""
    lengths, scores = np.array([1, 2, 3]), np.array([1.0, 2.0, 6.0])
    assert length_penalty(scores, lengths, "pearson") == pytest.approx(2.5)
    assert np.corrcoef(scores - 2.5 * lengths, lengths)[0, 1] == pytest.approx(0, abs=1e-12)


def test_spearman_with_ties_is_the_correlation_of_mean_ranks():
    """Ranks 1.5, 1.5, 3 and 1, 2, 3: covariance 1.5 over the root of 1.5 times 2."""
    assert spearman(np.array([5.0, 5.0, 9.0]), np.array([1, 2, 7])) == pytest.approx(1.5 / np.sqrt(1.5 * 2))
    assert spearman(np.array([1.0, 1.0]), np.array([1, 2])) == 0.0


@pytest.mark.parametrize("slope", [-0.7, 0.3])
def test_spearmans_penalty_is_the_best_of_all_orders(slope):
    """The order changes only where two answers change places: between these slopes nothing is missed."""
    rng = np.random.default_rng(3)
    lengths = rng.integers(1, 30, 14)
    scores = slope * lengths + rng.normal(size=14) ** 3
    pairs = [(i, j) for i in range(14) for j in range(i) if lengths[i] != lengths[j]]
    swaps = np.sort([(scores[i] - scores[j]) / (lengths[i] - lengths[j]) for i, j in pairs])
    between = (swaps[1:] + swaps[:-1]) / 2
    best = min(abs(spearman(scores - penalty * lengths, lengths)) for penalty in [*between, *swaps])
    found = length_penalty(scores, lengths, "spearman")
    assert abs(spearman(scores - found * lengths, lengths)) <= best + 1e-9 < abs(spearman(scores, lengths))
    assert found == pytest.approx(slope, abs=0.5) and np.sign(found) == np.sign(slope)
