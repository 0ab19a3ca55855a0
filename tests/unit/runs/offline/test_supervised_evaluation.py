"""The held-out loss is a mean over tokens, whatever the size of a batch."""

from types import SimpleNamespace

import numpy as np
import pytest

from alignment.runs.offline.supervised_evaluation import SupervisedEvaluation

SAMPLES = [{"input_ids": np.arange(5), "labels": np.array([-100] * (5 - n) + [1] * n)} for n in (1, 3, 2)]


def _forward(batches, read):
    """Log-prob -n for each target of a row with n targets; those of rows with one target are the likeliest."""
    counts = [np.bincount(batch.target_rows, minlength=batch.num_rows) for batch in batches]
    return [(-np.repeat(count, count).astype(np.float32), np.repeat(count == 1, count)) for count in counts]


@pytest.mark.parametrize("rows_per_batch", [1, 2, 3])
def test_evaluation_loss_is_a_mean_over_tokens(rows_per_batch):
    evaluation = SupervisedEvaluation(
        runner=SimpleNamespace(forward=_forward), samples=SAMPLES, rows_per_batch=rows_per_batch
    )
    metrics, rows = evaluation()
    assert metrics["eval/loss"] == pytest.approx((1 + 9 + 4) / 6)
    assert metrics["eval/perplexity"] == pytest.approx(np.exp(14 / 6))
    assert metrics["eval/accuracy"] == pytest.approx(1 / 6)
    assert rows == []
