"""The preference losses against TRL 1.16.0, OpenRLHF 0.11.2 and PaddleNLP's criterion, gradients too."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import paddle
import pytest

from alignment.algorithms.preference.answers import PairCounts
from alignment.algorithms.preference.dpo import DPOHyperparameters, dpo_loss
from alignment.algorithms.preference.survey import make_survey


def loss_of(logps, reference, *, mask=None, tokens=1, **options):
    fields = {"reference": reference, "response_mask": paddle.ones([logps.shape[0], 1]) if mask is None else mask}
    counts = PairCounts(pairs=logps.shape[0] // 2, chosen_tokens=tokens)
    names = options.pop("loss_type", "sigmoid").split()
    hyperparameters = DPOHyperparameters(loss_type=tuple(names), **options)
    if survey := make_survey(hyperparameters):
        mask = fields["response_mask"].numpy()
        batch = SimpleNamespace(fields={"reference": reference.numpy()}, response_mask=mask, num_rows=len(mask))
        survey([batch], [logps.numpy()], learns=True)
        fields |= {name: paddle.to_tensor(batch.fields[name]) for name in names}
    return dpo_loss(logps, fields=fields, hyperparameters=hyperparameters, denominator=counts)


@pytest.mark.parametrize(
    ("key", "options"),
    [
        ("dpo_sigmoid(beta=0.1, label_smoothing=0.0)", {"loss_type": "sigmoid"}),
        ("dpo_sigmoid_norm(beta=0.1, label_smoothing=0.0)", {"loss_type": "sigmoid_norm"}),
        ("dpo_hinge(beta=0.1, label_smoothing=0.0)", {"loss_type": "hinge"}),
        ("dpo_ipo(beta=0.1, label_smoothing=0.0)", {"loss_type": "ipo"}),
        ("dpo_robust(beta=0.1, label_smoothing=0.0)", {"loss_type": "robust"}),
        ("dpo_robust(beta=0.1, label_smoothing=0.1)", {"loss_type": "robust", "label_smoothing": 0.1}),
        ("dpo_exo_pair(beta=0.1, label_smoothing=0.1)", {"loss_type": "exo_pair", "label_smoothing": 0.1}),
        ("dpo_nca_pair(beta=0.1, label_smoothing=0.0)", {"loss_type": "nca_pair"}),
        ("dpo_sppo_hard(beta=0.1, label_smoothing=0.0)", {"loss_type": "sppo_hard"}),
        ("dpo_apo_zero(beta=0.1, label_smoothing=0.0)", {"loss_type": "apo_zero"}),
        ("dpo_apo_down(beta=0.1, label_smoothing=0.0)", {"loss_type": "apo_down"}),
        ("dpo_discopop(beta=0.1, label_smoothing=0.0)", {"loss_type": "discopop"}),
        ("dpo_bco_pair(beta=0.1, label_smoothing=0.0)", {"loss_type": "bco_pair", "bco_threshold": "zero"}),
        ("dpo_aot(beta=0.1, label_smoothing=0.0)", {"loss_type": "aot"}),
        ("dpo_aot(beta=0.1, label_smoothing=0.1)", {"loss_type": "aot", "label_smoothing": 0.1}),
        ("dpo_aot_unpaired(beta=0.1, label_smoothing=0.0)", {"loss_type": "aot_unpaired"}),
        ("dpo_aot_unpaired(beta=0.1, label_smoothing=0.1)", {"loss_type": "aot_unpaired", "label_smoothing": 0.1}),
        ("dpo_sft(beta=0.1, label_smoothing=0.0)", {"loss_type": "sft"}),
        ("dpo_sft(beta=0.1, label_smoothing=0.0)", {"pref_loss_ratio": 0.0, "sft_loss_ratio": 1.0}),
    ],
)
def test_trl(trl, precision, nearly, key, options):
    """TRL's ipo and sigmoid_norm compare log-probs per token, its other losses those of whole answers.

    Its bco_pair has no threshold; aot and aot_unpaired sort a batch, ours a whole update.
    """
    record = trl[key]
    x = {name: precision.tensor(values, grad=name == "logp") for name, values in record["inputs"].items()}
    answers = [(x[name] * x["mask"]).sum(axis=-1) for name in ("logp", "ref_logp")]
    tokens = float(x["mask"][:4].sum())
    loss = loss_of(*answers, mask=x["mask"], tokens=tokens, beta=record["params"]["beta"], **options)
    loss.value.backward()
    nearly(loss.value, record["outputs"]["loss"])
    # TRL was given zeros as padding and differentiated by them too.
    nearly(x["logp"].grad, x["mask"] * precision.tensor(record["outputs"]["grad_logp"]))


def test_several_losses_of_trl_are_added_with_their_weights(trl, precision, nearly):
    """TRL's loss_type=[sigmoid, ipo, sft] with loss_weights: whole answers, per token, and the tokens of a batch."""
    parts = {"sigmoid": 0.8, "ipo": 0.2, "sft": 1.5}
    records = [trl[f"dpo_{name}(beta=0.1, label_smoothing=0.0)"] for name in parts]
    x = {name: precision.tensor(values, grad=name == "logp") for name, values in records[0]["inputs"].items()}
    answers = [(x[name] * x["mask"]).sum(axis=-1) for name in ("logp", "ref_logp")]
    options = {"loss_type": " ".join(parts), "loss_weights": tuple(parts.values())}
    loss = loss_of(*answers, mask=x["mask"], tokens=float(x["mask"][:4].sum()), **options)
    loss.value.backward()
    outputs = [record["outputs"] for record in records]
    nearly(loss.value, sum(w * out["loss"] for w, out in zip(parts.values(), outputs, strict=True)))
    gradient = sum(w * np.array(out["grad_logp"]) for w, out in zip(parts.values(), outputs, strict=True))
    nearly(x["logp"].grad, gradient * np.array(records[0]["inputs"]["mask"]))
    for name, out in zip(parts, outputs, strict=True):
        nearly(loss.metrics[f"dpo/loss/{name}"].value, out["loss"])


@pytest.mark.parametrize(
    ("key", "options"),
    [
        ("dpo(beta=0.1)", {}),
        ("dpo(beta=0.1, label_smoothing=0.1)", {"label_smoothing": 0.1}),
        ("dpo(beta=0.1, ipo=True)", {"loss_type": "ipo", "average_logps": False}),
    ],
)
def test_openrlhf(openrlhf, precision, nearly, key, options):
    """OpenRLHF's ipo compares the log-probs of whole answers."""
    record = openrlhf[key]
    x = {name: precision.tensor(values, grad=True) for name, values in record["inputs"].items()}
    logps = paddle.concat([x["chosen"], x["rejected"]])
    reference = paddle.concat([x["ref_chosen"], x["ref_rejected"]]).detach()
    loss = loss_of(logps, reference, mask=paddle.ones([8, 3]), beta=0.1, **options)
    loss.value.backward()
    expected = record["outputs"]
    nearly(loss.value, expected["loss"])
    nearly(x["chosen"].grad, expected["grad_chosen"])
    nearly(x["rejected"].grad, expected["grad_rejected"])
    for side in ("chosen", "rejected"):
        nearly(loss.metrics[f"rewards/{side}"].value, sum(expected[f"{side}_rewards"]) / 4)


@pytest.mark.parametrize(
    ("key", "options"),
    [
        ("simpo(beta=2.0, gamma=0.5, label_smoothing=0.0)", {"loss_type": "simpo"}),
        ("simpo(beta=2.0, gamma=0.5, label_smoothing=0.1)", {"loss_type": "simpo", "label_smoothing": 0.1}),
        ("cpo_sigmoid(beta=2.0, gamma=0.5, label_smoothing=0.0)", {"loss_type": "cpo", "cpo_alpha": 0.0}),
        ("cpo_hinge(beta=2.0, gamma=0.5, label_smoothing=0.0)", {"loss_type": "hinge", "reference_free": True}),
    ],
)
def test_trl_without_a_reference(trl, precision, nearly, key, options):
    """The records are of log-probs that are averaged already; simpo averages itself, so it is given sums."""
    record = trl[key]
    loss, x = free_loss(record, precision, **options)
    nearly(loss.value, np.mean(record["outputs"]["losses"]))
    for side in ("chosen", "rejected"):
        # The record differentiates the sum over pairs, the loss is their mean.
        nearly(x[f"{side}_avg"].grad * 4, record["outputs"][f"grad_{side}"])


@pytest.mark.parametrize(("loss_type", "scale", "ratio"), [("or", 1.0, 0.0), ("orpo", 0.1, 1.0)])
def test_trl_odds_ratio(trl, precision, nearly, loss_type, scale, ratio):
    """TRL's record is what its trainer subtracts: beta log sigmoid(log odds); orpo adds the cross-entropy to it."""
    record = trl["orpo_odds_ratio(beta=0.1)"]
    loss, x = free_loss(record, precision, loss_type=loss_type)
    inputs, outputs = ({k: np.array(v) for k, v in record[part].items()} for part in ("inputs", "outputs"))
    lengths = np.array([2, 3, 4, 5])
    cross_entropy = -(inputs["chosen_avg"] * lengths).sum() / 14
    nearly(loss.value, -scale * outputs["losses"].mean() / 0.1 + ratio * cross_entropy)
    nearly(x["rejected_avg"].grad, -scale * outputs["grad_rejected"] / 0.4)
    nearly(x["chosen_avg"].grad, -scale * outputs["grad_chosen"] / 0.4 - ratio * lengths / 14)


def free_loss(record, precision, **options):
    """Return the loss where the averages of the record are those of answers of 2 to 5 tokens (cpo, hinge: of one)."""
    x = {name: precision.tensor(values, grad=True) for name, values in record["inputs"].items()}
    is_averaged = options["loss_type"] in ("simpo", "or", "orpo")
    lengths = paddle.to_tensor([2, 3, 4, 5] * 2 if is_averaged else [1] * 8)
    mask = (paddle.arange(5).unsqueeze(0) < lengths.unsqueeze(1)).astype(precision.dtype)
    logps = paddle.concat([x["chosen_avg"], x["rejected_avg"]]) * lengths.astype(precision.dtype)
    loss = loss_of(logps, None, mask=mask, tokens=14, beta=record["params"]["beta"], **options)
    loss.value.backward()
    return loss, x


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("sigmoid", {}),
        ("sigmoid_label_smoothing_0.1", {"label_smoothing": 0.1}),
        ("hinge", {"loss_type": "hinge"}),
        ("ipo", {"loss_type": "ipo"}),
        ("dpop", {"loss_type": "dpop"}),
        ("sppo_hard", {"loss_type": "sppo_hard"}),
        ("nca_pair", {"loss_type": "nca_pair"}),
        ("kto_pair", {"loss_type": "kto_pair"}),
    ],
)
def test_paddlenlp(safe_rlhf, precision, close, name, options):
    """Its criterion is given log-probs that are averaged already for ipo, or and simpo."""
    case = safe_rlhf["paddlenlp.dpo_criterion"]
    close(loss_of(*criterion(case, precision), beta=case["beta"], **options).value, case["outputs"][name])


def test_simpo_of_paddlenlp_with_its_reference(safe_rlhf, precision, close):
    """PaddleNLP's simpo subtracts the reference's log-probs too, unless reference_free; ours never reads them."""
    case = safe_rlhf["paddlenlp.dpo_criterion"]
    logps, reference = criterion(case, precision)
    found = loss_of(logps - reference, None, beta=case["beta"], loss_type="simpo").value
    close(found, case["outputs"]["simpo(as coded: logits still include reference terms)"])


def test_or_of_paddlenlp(safe_rlhf, precision, close):
    logps = precision.tensor([-0.7, -1.2, -1.1, -0.9])
    expected = safe_rlhf["paddlenlp.dpo_criterion"]["outputs"]["or (avg logps pc=[-0.7,-1.2] pr=[-1.1,-0.9])"]
    close(loss_of(logps, None, loss_type="or").value, expected)


def criterion(case, precision):
    return [precision.tensor(case[f"{whose}_chosen"] + case[f"{whose}_rejected"]) for whose in ("policy", "reference")]
