"""pass@k: the probability that at least one of k answers is correct."""

from __future__ import annotations

import numpy as np


def pass_at_k(num_answers: int, num_correct: int, k: int) -> float:
    """Return the unbiased estimate from ``num_answers`` answers of which ``num_correct`` are correct (Chen et al. 2021,
    "Evaluating Large Language Models Trained on Code", equation 1): 1 - C(n - c, k) / C(n, k).

    >>> pass_at_k(4, 1, 2)
    0.5
    """
    assert 0 <= num_correct <= num_answers and 1 <= k <= num_answers, (num_answers, num_correct, k)
    if num_answers - num_correct < k:
        return 1.0
    wrong = np.arange(num_answers - num_correct + 1, num_answers + 1)
    return float(1 - np.prod(1 - k / wrong))
