"""What is measured on a rollout does not depend on the rows of a forward pass, and stands at its own token."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from alignment.parallel.dense import DenseRunner
from alignment.records import Rollout
from alignment.rollout.forward import measure_logprobs, measure_scores
from tests.tiny_models import tiny_causal

ROLLOUT = Rollout(
    prompts=(np.array([1, 5]), np.array([1, 6, 7]), np.array([1, 8])),
    responses=(np.array([3, 4, 2]), np.array([9, 2]), np.array([2])),
    finish_reasons=("stop",) * 3,
    group_ids=np.arange(3),
)


@pytest.fixture(scope="module")
def model():
    return tiny_causal(std=0.5)


def _by_hand(model, temperature):
    logprobs, entropy = np.zeros((3, 3), np.float32), np.zeros((3, 3), np.float32)
    for row, (prompt, response) in enumerate(zip(ROLLOUT.prompts, ROLLOUT.responses, strict=True)):
        with paddle.no_grad():
            logits = model(np.concatenate([prompt, response])[None]).numpy()[0] / temperature
        for column, token in enumerate(response):
            scores = logits[len(prompt) + column - 1].astype(np.float64)
            chances = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
            logprobs[row, column] = np.log(chances[token])
            entropy[row, column] = -(chances * np.log(chances)).sum()
    return logprobs, entropy


@pytest.mark.parametrize("rows_per_batch", [1, 2, 3])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_log_probs_and_entropies_by_hand(model, rows_per_batch, temperature):
    how = {"rows_per_batch": rows_per_batch, "temperature": temperature}
    logprobs, entropy = measure_logprobs(DenseRunner(model), ROLLOUT, with_entropy=True, **how)
    expected = _by_hand(model, temperature)
    np.testing.assert_allclose(logprobs, expected[0], atol=1e-5)
    np.testing.assert_allclose(entropy, expected[1], atol=1e-5)
    alone, nothing = measure_logprobs(DenseRunner(model), ROLLOUT, **how)
    np.testing.assert_allclose(alone, expected[0], atol=1e-5)
    assert nothing is None


class _ByPlace:
    """Gives each row a score that its place rounds, as products of a batch may."""

    def forward(self, batches, read):
        return [np.arange(batch.num_rows, dtype=np.float32) * 2.0**-20 + 1 for batch in batches]


@pytest.mark.parametrize(("starts", "first"), [(None, [0, 1, 0, 0, 1]), ([1, 1, 1, 2, 1], [0, 1, 0, 3, 1])])
def test_equal_rows_have_the_very_same_score(starts, first):
    rows = [np.array(row) for row in ([4, 5], [4, 6], [4, 5], [4, 5], [4, 6])]
    scores = measure_scores(_ByPlace(), rows, starts, rows_per_batch=5)
    assert scores.tolist() == [1 + row * 2.0**-20 for row in first]
