"""DPO, cDPO and IPO against TRL 1.16.0, OpenRLHF 0.11.2 and PaddleNLP's criterion."""

from __future__ import annotations

import paddle
import pytest

from alignment.algorithms.preference.answers import PairCounts
from alignment.algorithms.preference.dpo import DPOHyperparameters, dpo_loss


def loss_of(logps, reference, *, mask=None, tokens=1, **options):
    fields = {"reference": reference, "response_mask": paddle.ones([logps.shape[0], 1]) if mask is None else mask}
    counts = PairCounts(pairs=logps.shape[0] // 2, chosen_tokens=tokens)
    return dpo_loss(logps, fields=fields, hyperparameters=DPOHyperparameters(**options), denominator=counts)


@pytest.mark.parametrize(
    ("key", "options"),
    [
        ("dpo_sigmoid(beta=0.1, label_smoothing=0.0)", {}),
        ("dpo_sigmoid_norm(beta=0.1, label_smoothing=0.0)", {"average_logps": True}),
        ("dpo_ipo(beta=0.1, label_smoothing=0.0)", {"loss_type": "ipo", "average_logps": True}),
        ("dpo_sft(beta=0.1, label_smoothing=0.0)", {"pref_loss_ratio": 0.0, "sft_loss_ratio": 1.0}),
    ],
)
def test_trl(trl, precision, nearly, key, options):
    record = trl[key]
    x = {name: precision.tensor(values, grad=name == "logp") for name, values in record["inputs"].items()}
    answers = [(x[name] * x["mask"]).sum(axis=-1) for name in ("logp", "ref_logp")]
    tokens = float(x["mask"][:4].sum())
    loss = loss_of(*answers, mask=x["mask"], tokens=tokens, beta=record["params"]["beta"], **options)
    loss.value.backward()
    nearly(loss.value, record["outputs"]["loss"])
    # TRL was given zeros as padding and differentiated by them too.
    nearly(x["logp"].grad, x["mask"] * precision.tensor(record["outputs"]["grad_logp"]))


@pytest.mark.parametrize(
    ("key", "options"),
    [
        ("dpo(beta=0.1)", {}),
        ("dpo(beta=0.1, label_smoothing=0.1)", {"label_smoothing": 0.1}),
        ("dpo(beta=0.1, ipo=True)", {"loss_type": "ipo"}),
    ],
)
def test_openrlhf(openrlhf, precision, nearly, key, options):
    record = openrlhf[key]
    x = {name: precision.tensor(values, grad=True) for name, values in record["inputs"].items()}
    logps = paddle.concat([x["chosen"], x["rejected"]])
    loss = loss_of(logps, paddle.concat([x["ref_chosen"], x["ref_rejected"]]).detach(), beta=0.1, **options)
    loss.value.backward()
    expected = record["outputs"]
    nearly(loss.value, expected["loss"])
    nearly(x["chosen"].grad, expected["grad_chosen"])
    nearly(x["rejected"].grad, expected["grad_rejected"])
    for side in ("chosen", "rejected"):
        nearly(loss.metrics[f"rewards/{side}"].value, sum(expected[f"{side}_rewards"]) / 4)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("sigmoid", {}),
        ("sigmoid_label_smoothing_0.1", {"label_smoothing": 0.1}),
        ("ipo", {"loss_type": "ipo"}),
    ],
)
def test_paddlenlp(safe_rlhf, precision, close, name, options):
    case = safe_rlhf["paddlenlp.dpo_criterion"]
    logps, reference = (
        precision.tensor(case[f"{whose}_chosen"] + case[f"{whose}_rejected"]) for whose in ("policy", "reference")
    )
    close(loss_of(logps, reference, beta=case["beta"], **options).value, case["outputs"][name])
