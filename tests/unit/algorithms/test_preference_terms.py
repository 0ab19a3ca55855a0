"""The terms beside a loss of pairs, each with its peer's normalisation: values by hand."""

from __future__ import annotations

import math

import paddle
import pytest

from alignment.algorithms.preference.answers import PairCounts
from alignment.algorithms.preference.dpo import DPOHyperparameters, dpo_loss

LOGPS = [-6.0, -4.0, -9.0, -5.0]
"""Two preferred answers of 2 and 4 tokens, and two others of 3 and 1."""
LENGTHS = [2, 4, 3, 1]
REFERENCE = [-5.0, -6.0, -6.0, -5.5]


def loss_of(**options):
    mask = (paddle.arange(4).unsqueeze(0) < paddle.to_tensor(LENGTHS).unsqueeze(1)).astype("float32")
    fields = {"reference": paddle.to_tensor(REFERENCE), "response_mask": mask, "margin": paddle.to_tensor([0.5, 2.0])}
    counts = PairCounts(pairs=2, chosen_tokens=6)
    hyperparameters = DPOHyperparameters(**options)
    return dpo_loss(paddle.to_tensor(LOGPS), fields=fields, hyperparameters=hyperparameters, denominator=counts)


def logistic(x):
    return math.log1p(math.exp(-x))


PLAIN = (logistic(0.1 * 2.0) + logistic(0.1 * 1.5)) / 2
"""The gains are -1 and 2, and -3 and 0.5."""


@pytest.mark.parametrize(
    ("options", "term"),
    [
        ({"sft_loss_ratio": 0.5}, 10.0 / 6),
        ({"nll_loss_coef": 0.5}, (6.0 / 2 + 4.0 / 4) / 2),
    ],
    ids=["over all tokens (PaddleNLP, TRL)", "over answers (OpenRLHF)"],
)
def test_cross_entropy_of_the_preferred_answers(options, term):
    loss = loss_of(**options)
    assert float(loss.metrics["dpo/sft_loss"].value) == pytest.approx(term)
    assert float(loss.value) == pytest.approx(PLAIN + 0.5 * term)
    assert "dpo/sft_loss" not in loss_of().metrics


@pytest.mark.parametrize(
    ("options", "shifts"),
    [
        ({"margin_scale": 0.3}, (0.15, 0.6)),
        ({"offset_alpha": 0.3}, (0.3 * math.log(0.5 + 1e-6), 0.3 * math.log(2 + 1e-6))),
    ],
)
def test_pairs_must_be_won_by_their_margins(options, shifts):
    gaps = [0.2 - shifts[0], 0.15 - shifts[1]]
    assert float(loss_of(**options).value) == pytest.approx(sum(map(logistic, gaps)) / 2)
    hinge = loss_of(**options, loss_type=("hinge",)).value
    assert float(hinge) == pytest.approx(sum(max(0, 1 - gap) for gap in gaps) / 2)
    robust = loss_of(**options, loss_type=("robust",), label_smoothing=0.2).value
    assert float(robust) == pytest.approx(sum((0.8 * logistic(gap) - 0.2 * logistic(-gap)) / 0.6 for gap in gaps) / 2)


def test_normalize_logps_gives_both_answers_the_mean_length_of_the_pair():
    """PaddleNLP multiplies log-probs of policy and reference by the mean length over the answer's own."""
    gaps = [-1 * 2.5 / 2 + 3 * 2.5 / 3, 2 * 2.5 / 4 - 0.5 * 2.5 / 1]
    loss = loss_of(normalize_logps=True)
    assert float(loss.value) == pytest.approx(sum(logistic(0.1 * gap) for gap in gaps) / 2)
    assert float(loss.metrics["logps/chosen"].value) == -5.0, "as measured"


def test_what_each_side_gained_over_the_reference_is_told():
    metrics = loss_of(beta=0.5, average_logps=True).metrics
    assert float(metrics["kl/chosen"].value) == 0.5 and float(metrics["kl/rejected"].value) == -1.25
    assert not {"kl/chosen", "kl/rejected"} & loss_of(reference_free=True).metrics.keys()
