"""What is measured on a rollout does not depend on the rows of a forward pass, and stands at its own token."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from alignment.parallel.dense import DenseRunner
from alignment.records import Rollout
from alignment.rollout.forward import measure_logprobs
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
