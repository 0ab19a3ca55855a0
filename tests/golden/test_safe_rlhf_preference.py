"""Reward and cost model losses of safe-rlhf and PaddleNLP."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from alignment.algorithms.bradley_terry import BradleyTerryHyperparameters, bradley_terry_loss
from alignment.algorithms.cost_model import cost_model_loss
from alignment.algorithms.preference_losses import first_difference

SETTINGS = [(kind, weight) for kind in ("sequence-wise", "token-wise") for weight in (0.0, 0.001, 0.1)]


def pair_fields(case):
    better, worse = np.array(case["better_input_ids"]), np.array(case["worse_input_ids"])
    lengths = [np.array(case[f"{side}_attention_mask"]).sum(axis=1) for side in ("better", "worse")]
    first = first_difference(better, worse, better_lengths=lengths[0], worse_lengths=lengths[1])
    arrays = {"first_difference": first, "better_ends": lengths[0] - 1, "worse_ends": lengths[1] - 1}
    return {name: paddle.to_tensor(array) for name, array in arrays.items()}


def pair_loss(case, precision, **options):
    scores = precision.tensor(np.array(case["scores_2B_L_1"])[..., 0], grad=True)
    hyperparameters = BradleyTerryHyperparameters(**options)
    loss = bradley_terry_loss(
        scores[:3], scores[3:], fields=pair_fields(case), hyperparameters=hyperparameters, denominator=3
    )
    loss.value.backward()
    return loss, scores.grad


@pytest.mark.parametrize(("loss_type", "weight"), SETTINGS)
def test_reward_model_loss(safe_rlhf, precision, close, loss_type, weight):
    case = safe_rlhf["reward_model_loss_safe_rlhf"]
    expected = case["outputs"][f"{loss_type}|reg={weight}"]
    options = {"loss_type": loss_type, "regularization": weight, "regularization_convention": "safe-rlhf"}
    loss, grad = pair_loss(case, precision, **options)
    close(loss.value, expected["loss"])
    close(grad, np.reshape(expected["grad_scores"], (6, 6)))
    close(loss.metrics["preference/accuracy"].value, expected["accuracy"], 1e-6)


@pytest.mark.parametrize(("loss_type", "weight"), SETTINGS)
def test_reward_model_loss_paddlenlp(safe_rlhf, precision, close, loss_type, weight):
    options = {"loss_type": loss_type, "regularization": weight, "regularization_convention": "paddlenlp"}
    loss, _ = pair_loss(safe_rlhf["reward_model_loss_safe_rlhf"], precision, **options)
    close(loss.value, safe_rlhf["paddlenlp.reward_model_loss"][f"{loss_type}|reg={weight}"])


def test_reward_model_metrics(safe_rlhf, precision, close):
    expected = safe_rlhf["paddlenlp.reward_model_metrics"]
    loss, _ = pair_loss(safe_rlhf["reward_model_loss_safe_rlhf"], precision)
    close(loss.metrics["preference/accuracy"].value, expected["accuracy"], 1e-6)
    close(loss.metrics["preference/score"].value, expected["rewards_mean"])


@pytest.mark.parametrize("weight", [0.0, 0.001])
@pytest.mark.parametrize("loss_type", ["sequence-wise", "token-wise"])
def test_cost_model_loss(safe_rlhf, precision, close, loss_type, weight):
    case = safe_rlhf["cost_model_loss_safe_rlhf"]
    pairs = safe_rlhf["reward_model_loss_safe_rlhf"]
    assert case["safer_input_ids"] == pairs["better_input_ids"]
    spans = pair_fields(pairs)
    signs = {f"{side}_safety_sign": precision.tensor(case[f"{side}_safety_sign"]) for side in ("safer", "unsafer")}
    fields = {**spans, "safer_ends": spans["better_ends"], "unsafer_ends": spans["worse_ends"], **signs}
    costs = precision.tensor(np.array(case["scores_2B_L_1(first half=safer)"])[..., 0])
    hyperparameters = BradleyTerryHyperparameters(
        loss_type=loss_type, regularization=weight, regularization_convention="safe-rlhf"
    )
    loss = cost_model_loss(costs[:3], costs[3:], fields=fields, hyperparameters=hyperparameters, denominator=3)
    expected = case["outputs"][f"{loss_type}|reg={weight}"]
    close(loss.value, expected["loss"])
    close(loss.metrics["cost/accuracy"].value, expected["accuracy"], 1e-6)
    close(loss.metrics["cost/sign_accuracy"].value, expected["accuracy_sign"], 1e-6)
