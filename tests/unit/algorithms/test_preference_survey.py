"""What losses are told of the whole update, and the losses of quantiles and of odds at their limits."""

from __future__ import annotations

import json

import numpy as np
import paddle
import pytest

from alignment.algorithms.preference.answers import PairCounts, Pairs, Sides
from alignment.algorithms.preference.dpo import DPOHyperparameters, dpo_loss
from alignment.algorithms.preference.losses import LOSSES, LossType
from alignment.algorithms.preference.survey import RunningMean, make_survey
from alignment.algorithms.preference.update_losses import SurveyedAnswers
from alignment.errors import CheckpointError
from alignment.records import TokenBatch
from alignment.training import objectives


def batch_of(reference):
    """A micro-batch of answers of one and two tokens by turns."""
    lengths = [1 + i % 2 for i in range(len(reference))]
    batch = TokenBatch.build(
        [np.arange(1 + length) for length in lengths], [np.arange(1, 1 + length) for length in lengths]
    )
    batch.fields["reference"] = np.array(reference, np.float32)
    return batch


def surveyed(loss_type, cut, **options):
    """Return the fields that a survey adds to micro-batches, given as (log-probs, reference) of both sides."""
    batches = [batch_of(reference) for _, reference in cut]
    survey = make_survey(DPOHyperparameters(loss_type=(loss_type,), **options))
    survey(batches, [np.array(logps, np.float32) for logps, _ in cut], learns=True)
    return [batch.fields[loss_type].tolist() for batch in batches]


ONE = [([-1, -2, -3, -6, -4, -5], [-2, -2, -2, -3, -5, -4])]
"""Ratios of the policy 5, 2, 2, of the reference 1, 3, 2; gains 1, 0, -1 and -3, 1, -1."""
TWO = [([-1, -6], [-2, -3]), ([-2, -3, -4, -5], [-2, -2, -5, -4])]


@pytest.mark.parametrize(
    ("loss_type", "chosen", "rejected"),
    [
        ("aot", [3, 1, 2], [3, 1, 2]),
        ("aot_unpaired", [1, -1, -3], [-1, 1, 0]),
        ("kto_pair", [0, 0, 0], [0, 0, 0]),
        ("bco_pair", [-0.5] * 3, [-0.5] * 3),
    ],
)
def test_a_survey_is_of_the_whole_update(loss_type, chosen, rejected):
    """Two equal ratios have their ranks in the order of rows."""
    assert surveyed(loss_type, ONE) == [[*chosen, *rejected]]
    first, rest = surveyed(loss_type, TWO)
    assert first == [chosen[0], rejected[0]] and rest == [*chosen[1:], *rejected[1:]]


def test_the_means_of_kto_pair_are_crossed_and_not_below_zero():
    gained = [([-1, -1, -4, -4], [-2, -4, -1, -2])]
    assert surveyed("kto_pair", gained) == [[0, 0, 2, 2]]


def test_average_logps_divides_by_the_lengths_of_answers():
    [found] = surveyed("bco_pair", ONE, average_logps=True)
    assert found == pytest.approx([(1 + 0 - 1 - 3 / 2 + 1 - 1 / 2) / 6] * 6)


def test_a_threshold_of_zero_and_losses_of_a_pair_need_no_survey():
    assert make_survey(DPOHyperparameters(loss_type=("bco_pair",), bco_threshold="zero")) is None
    assert make_survey(DPOHyperparameters(loss_type=("sigmoid", "simpo"), loss_weights=(1.0, 1.0))) is None


def answers(*gains):
    return SurveyedAnswers(np.array(gains, np.float64), np.zeros((2, len(gains[0]))))


def test_a_running_mean_counts_every_answer_that_was_trained_on():
    mean = RunningMean()
    assert mean.measure(answers([4.0], [2.0]), learns=False).tolist() == [[3.0], [3.0]], "nothing was trained on"
    assert mean.measure(answers([1.0, 2.0], [3.0, 6.0]), learns=True)[0, 0] == 3.0
    assert mean.measure(answers([0.0], [0.0]), learns=True)[0, 0] == 2.0
    assert mean.measure(answers([9.0], [9.0]), learns=False)[0, 0] == 2.0
    other = RunningMean()
    other.load_state(json.loads(json.dumps(mean.state())))
    assert (
        other.measure(answers([9.0], [9.0]), learns=True)[0, 0]
        == mean.measure(answers([9.0], [9.0]), learns=True)[0, 0]
    )
    with pytest.raises(CheckpointError, match="its running mean of gains is damaged"):
        other.load_state({"total": None, "count": 1})


def pairs_of(chosen, rejected, measured=None):
    sides = Sides(chosen, rejected)
    return Pairs(logps=sides, gains=sides, chosen_sums=chosen, counts=PairCounts(len(chosen), 4), measured=measured)


@pytest.mark.parametrize("loss_type", ["or", "orpo"])
@pytest.mark.parametrize("sure", [0.0, -1e-9, -1e-6, -0.5, -0.6931472, -0.7, -200.0])
def test_odds_of_a_sure_answer_have_a_finite_loss_and_gradient(loss_type, sure):
    chosen, rejected = (paddle.to_tensor([value], stop_gradient=False) for value in (-1.0, sure))
    value = LOSSES[loss_type](pairs_of(chosen, rejected), DPOHyperparameters()).sum()
    value.backward()
    probability = np.exp(np.float64(min(sure, -1e-7)))
    odds = np.log(np.exp(-1) / (1 - np.exp(-1))) - np.log(probability / -np.expm1(min(sure, -1e-7)))
    scale, cross_entropy = (1.0, 0.0) if loss_type == "or" else (0.1, 0.25)
    assert float(value) == pytest.approx(scale * np.logaddexp(0, -odds) + cross_entropy, rel=2e-5)
    assert np.isfinite([chosen.grad.item(), rejected.grad.item()]).all()


def test_a_quantile_of_aot_unpaired_counts_once_and_moves_both_of_its_answers():
    """The loss is that of sorted gains; here chosen answers have ranks 1, 0 and the others 0, 1."""
    chosen, rejected = (paddle.to_tensor(values, stop_gradient=False) for values in ([2.0, -1.0], [0.0, 1.0]))
    ordered = -paddle.nn.functional.log_sigmoid(0.1 * (paddle.sort(chosen) - paddle.sort(rejected)))
    expected = [tensor.numpy() for tensor in paddle.grad(ordered.sum(), [chosen, rejected])]
    measured = Sides(paddle.to_tensor([1.0, 0.0]), paddle.to_tensor([-1.0, 2.0]))
    found = LOSSES["aot_unpaired"](pairs_of(chosen, rejected, measured), DPOHyperparameters()).sum()
    assert float(found) == pytest.approx(float(ordered.sum()))
    for tensor, one in zip(paddle.grad(found, [chosen, rejected]), expected, strict=True):
        np.testing.assert_allclose(tensor.numpy(), one, rtol=1e-6)


def loss_of(logps, reference, **options):
    lengths = np.array([2, 1, 1, 3])
    fields = {
        "reference": paddle.to_tensor(reference),
        "response_mask": paddle.to_tensor((np.arange(3) < lengths[:, None]).astype(np.float32)),
    }
    hyperparameters = DPOHyperparameters(**options)
    return dpo_loss(
        paddle.to_tensor(logps), fields=fields, hyperparameters=hyperparameters, denominator=PairCounts(2, 3)
    )


def test_what_exceeds_the_shorter_answer_counts_ld_alpha_times_in_all_but_cross_entropy_and_metrics():
    """LD-DPO (Liu et al. 2024): s = shared + ld_alpha tail, for policy and reference alike."""
    logps = np.array([[-1.0, -2.0], [-3.0, 0.0], [-2.0, 0.0], [-4.0, -6.0]], np.float32)
    reference = np.array([[-1.5, -1.0], [-2.0, 0.0], [-2.5, 0.0], [-3.0, -8.0]], np.float32)
    found = loss_of(logps, reference, ld_alpha=0.25, sft_loss_ratio=1.0)
    gaps = 0.1 * np.array([(0.5 - 0.25) - 0.5, -1.0 - (-1.0 + 0.25 * 2.0)])
    assert float(found.metrics["dpo/loss"].value) == pytest.approx(np.logaddexp(0, -gaps).mean())
    assert float(found.metrics["dpo/sft_loss"].value) == pytest.approx((3.0 + 3.0) / 3)
    assert float(found.metrics["logps/rejected"].value) == pytest.approx(-6.0)
    assert float(found.metrics["kl/rejected"].value) == pytest.approx((0.5 + 1.0) / 2)
    whole = loss_of(logps.sum(-1), reference.sum(-1), loss_type=("ipo",))
    assert float(loss_of(logps, reference, loss_type=("ipo",), ld_alpha=1.0).value) == pytest.approx(float(whole.value))


def test_answers_are_split_where_the_shorter_one_of_a_pair_ends(monkeypatch):
    """Pairs of 2 and 1, and of 1 and 3 tokens; the log-probs of a row are 1, 2, 4 times its number."""
    batch = TokenBatch.build([np.arange(4)] * 4, [np.arange(1, 1 + length) for length in (2, 1, 1, 3)])
    values = [row * column for row, length in ((1, 2), (2, 1), (3, 1), (4, 3)) for column in (1, 2, 4)[:length]]
    monkeypatch.setattr(objectives, "read_logprobs", lambda model, batch: paddle.to_tensor(values, "float32"))
    assert objectives.read_split_answers(None, batch).tolist() == [[1, 2], [2, 0], [3, 0], [4, 24]]


def test_every_loss_is_a_value_of_loss_type():
    assert LossType.__args__ == tuple(LOSSES)
