"""What a loss is divided by, and what is reported of it."""

import numpy as np
import paddle
import pytest

from alignment.records import TokenBatch
from alignment.training import objectives
from alignment.training.objectives import supervised_batch, supervised_objective

BATCH = TokenBatch.build([np.array([1, 2, 3])], [np.array([1, 2])])


def _losses(batches, **options):
    objective = supervised_objective(batches, **options)
    return [objective.loss(-paddle.arange(1, b.num_targets + 1, dtype="float32"), b) for b in batches]


def test_the_coefficient_multiplies_the_loss_and_not_the_metric():
    [loss] = _losses([BATCH], coefficient=0.5, name="ptx")
    assert float(loss.value) == pytest.approx(0.75)
    assert float(loss.metrics["ptx/loss"].value) == pytest.approx(1.5)


def test_micro_batches_of_unequal_size_share_the_denominator_of_the_update():
    other = TokenBatch.build([np.arange(6)], [np.arange(1, 6)])
    losses = _losses([BATCH, other])
    assert [float(loss.value) for loss in losses] == pytest.approx([3 / 7, 15 / 7])
    assert sum(float(loss.metrics["sft/loss"].value) for loss in losses) == pytest.approx(18 / 7)


def test_a_label_at_the_first_token_has_nothing_to_be_predicted_from():
    batch = supervised_batch([{"input_ids": np.arange(4), "labels": np.array([0, -100, 2, 3])}])
    assert batch.target_positions.tolist() == [2, 3]


def test_supervised_log_probs_are_those_of_the_model_itself(monkeypatch):
    asked = []
    monkeypatch.setattr(
        objectives, "policy_logprobs", lambda *given, **named: asked.append((given, named)) or ("lp", 1)
    )
    assert supervised_objective([BATCH]).read("model", BATCH) == "lp"
    assert asked == [(("model", BATCH), {"temperature": 1.0, "with_entropy": False})]
