"""Attributes of answers: missing values are masked, useless attributes refused, and the evaluation is right by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import paddle
import pytest

from alignment.algorithms.regression import regression_loss
from alignment.errors import DataError
from alignment.models.decoder.score_model import ScoreOptions
from alignment.runs.offline.attributes import AttributeEvaluation, attribute_batch, check_values, count_known
from alignment.runs.offline.train import build_task
from alignment.trainers.objectives import REGRESSION
from tests.tiny_models import tiny_score


def sample(ids, *values):
    labels = np.array([-100, *ids[1:]])
    return {"input_ids": np.array(ids), "labels": labels, "attributes": list(values)}


SAMPLES = [sample([3, 4], 1.0, None), sample([5, 6, 7], 3.0, 2.0), sample([8, 9], None, 4.0)]


def loss_of(cut, scores):
    batches = [attribute_batch(part) for part in cut]
    made = build_task(REGRESSION, None, model=None).make_objective(batches)
    parts = [paddle.to_tensor(np.array(part, np.float32), stop_gradient=False) for part in scores]
    losses = [made.loss(part, batch) for part, batch in zip(parts, batches, strict=True)]
    sum(loss.value for loss in losses).backward()
    return sum(float(loss.value) for loss in losses), np.concatenate([part.grad.numpy() for part in parts])


def test_the_loss_is_the_mean_squared_error_of_the_values_that_are_known():
    """Errors 1, 0, 2 and 3; what is predicted for a missing value does not matter, even if it is no number."""
    scores = [[2.0, np.nan], [3.0, 4.0], [7.0, 1.0]]
    for cut in ([[0, 1, 2]], [[0], [1, 2]]):
        value, grad = loss_of([[SAMPLES[i] for i in part] for part in cut], [[scores[i] for i in part] for part in cut])
        assert value == pytest.approx((1 + 0 + 4 + 9) / 4)
        np.testing.assert_allclose(np.nan_to_num(grad), [[0.5, 0], [0, 1.0], [0, -1.5]])


def test_known_values_are_counted():
    assert count_known([attribute_batch(SAMPLES[:1]), attribute_batch(SAMPLES[1:])]) == 4


def launch(*names):
    offline = SimpleNamespace(attributes=names, train_datasets="rows.jsonl")
    training = SimpleNamespace(per_device_eval_batch_size=2)
    return SimpleNamespace(parsed=SimpleNamespace(offline=offline, training=training))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([sample([3], 1.0, 5.0), sample([4], 1.0, 2.0)], "attribute 'a' is 1 in all 2 rows of rows.jsonl: nothing"),
        ([sample([3], None, 5.0), sample([4], None, 2.0)], "attribute 'a' has no value in all 2 rows of rows.jsonl"),
        ([sample([3], 1.0, 5.0), sample([4], 2.0, None)], "'b' is 5 in all 1 row of rows.jsonl that have a value"),
        ([sample([3], 1.0, 5.0), sample([4], 2.0)], r"row 1 of rows.jsonl .* has 1 values.*attributes names 2: a, b"),
    ],
)
def test_an_attribute_from_which_nothing_is_learned_is_refused_by_name(rows, message):
    with pytest.raises(DataError, match=message):
        check_values(launch("a", "b"), rows)


class _Predicts:
    """A runner whose predictions are given."""

    def __init__(self, scores):
        self._scores = np.array(scores, np.float32)

    def forward(self, batches, read):
        starts = np.cumsum([0, *(batch.num_rows for batch in batches)])
        return [self._scores[start : start + b.num_rows] for start, b in zip(starts, batches, strict=False)]


def test_the_evaluation_by_hand():
    """Attribute a: predicted 1, 2, 4 for 1, 3, 5; b is known twice and predicted in the wrong order."""
    rows = [sample([3, 4], 1.0, 1.0), sample([5, 6], 3.0, None), sample([7, 8], 5.0, 2.0)]
    evaluation = AttributeEvaluation(
        runner=_Predicts([[1, 2], [2, 0], [4, 1]]), samples=rows, names=("a", "b"), rows_per_batch=2, decode=str
    )
    metrics, shown = evaluation()
    assert metrics["eval/mse/a"] == pytest.approx((0 + 1 + 1) / 3)
    assert metrics["eval/mse/b"] == pytest.approx((1 + 1) / 2)
    assert metrics["eval/loss"] == pytest.approx(4 / 5)
    correlation = np.corrcoef([1, 2, 4], [1, 3, 5])[0, 1]
    assert metrics["eval/pearson/a"] == pytest.approx(correlation)
    assert metrics["eval/pearson/b"] == pytest.approx(-1.0)
    assert metrics["eval/pearson"] == pytest.approx((correlation - 1) / 2)
    assert shown[1] == {
        "prompt": "[5]", "response": "[6]", "score": 1.0, "a": 2.0, "b": 0.0, "true a": 3.0, "true b": None
    }  # fmt: skip


def test_a_model_with_several_scores_learns_them_all():
    model = tiny_score(ScoreOptions(labels=("a", "b")))
    batch = attribute_batch(SAMPLES)
    made = build_task(REGRESSION, None, model=model).make_objective([batch])
    made.loss(made.read(model, batch), batch).value.backward()
    assert (np.abs(model.score.weight.grad.numpy()).max(axis=0) > 0).all()


def test_the_loss_is_named_after_its_objective():
    fields = {"attributes": paddle.zeros([1, 1]), "known": paddle.ones([1, 1])}
    loss = regression_loss(paddle.full([1, 1], 3.0), fields=fields, hyperparameters=None, denominator=1)
    assert float(loss.metrics["regression/loss"].value) == 9.0
