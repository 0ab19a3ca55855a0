"""KTO against TRL 1.16.0 and PaddleNLP's criterion, and the vanilla form of OpenRLHF 0.5.

All are means over all rows with log-probs of whole answers. PaddleNLP's criterion clamps the KL in runs of several
processes only; here, as in TRL, it never is negative. OpenRLHF's vanilla form lets the gradient flow through its means;
here they are held fixed, so only its value is compared.
"""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from alignment.algorithms.preference.kto import KTOHyperparameters, LabelCounts, kto_baseline, kto_loss


def loss_of(logps, reference, labels, *, kl_gains=None, **options):
    hyperparameters = KTOHyperparameters(**options)
    gains = (logps - reference).numpy() if kl_gains is None else kl_gains
    baseline = paddle.to_tensor(kto_baseline(gains, np.array(labels), hyperparameters).astype(gains.dtype))
    fields = {"reference": reference, "desirable": paddle.to_tensor(labels).astype(logps.dtype), "baseline": baseline}
    counts = LabelCounts(sum(labels), len(labels) - sum(labels))
    return kto_loss(logps, fields=fields, hyperparameters=hyperparameters, denominator=counts)


@pytest.mark.parametrize(
    ("key", "loss_type"),
    [
        ("kto(beta=0.1, desirable_weight=1.0, undesirable_weight=1.0)", "kto"),
        ("kto(beta=0.1, desirable_weight=1.0, undesirable_weight=1.33)", "kto"),
        ("apo_zero_unpaired(beta=0.1, desirable_weight=1.0, undesirable_weight=1.0)", "apo_zero_unpaired"),
    ],
)
def test_trl(trl, precision, nearly, key, loss_type):
    record = trl[key]
    given = record["inputs"]
    x = {name: precision.tensor(given[name], grad=name == "logp") for name in ("logp", "ref_logp", "mask")}
    answers = [(x[name] * x["mask"]).sum(axis=-1) for name in ("logp", "ref_logp")]
    kl = precision.tensor(given["kl_logp"]).sum(axis=-1) - precision.tensor(given["kl_ref_logp"]).sum(axis=-1)
    loss = loss_of(*answers, given["label"], kl_gains=kl.numpy(), loss_type=loss_type, **record["params"])
    loss.value.backward()
    nearly(loss.value, record["outputs"]["loss"])
    nearly(x["logp"].grad, x["mask"] * precision.tensor(record["outputs"]["grad_logp"]))


def test_paddlenlp(safe_rlhf, precision, close):
    case, pairs = safe_rlhf["paddlenlp.kto_criterion"], safe_rlhf["paddlenlp.dpo_criterion"]
    logps, reference = (
        precision.tensor(pairs[f"{whose}_chosen"] + pairs[f"{whose}_rejected"]) for whose in ("policy", "reference")
    )
    kl = np.array(case["policy_minus_ref_kl_logps"], precision.dtype)
    loss = loss_of(logps, reference, [1, 1, 0, 0], kl_gains=kl.repeat(2), beta=case["beta"])
    close(loss.value, case["loss"], 1e-6)
    close(loss.metrics["kto/kl"].value, case["kl"], 1e-6)


def test_the_vanilla_form_by_hand(safe_rlhf, precision, close):
    """Gains 0.5 and -1.5 (good), -1 and 0.5 (bad): both means are negative, so both baselines are 0, as the number of
    PaddleNLP's kto_pair, the same formula, shows; with the signs turned they are 0.5 for bad and 0.25 for good answers.
    """
    pairs = safe_rlhf["paddlenlp.dpo_criterion"]
    logps, reference = (
        precision.tensor(pairs[f"{whose}_chosen"] + pairs[f"{whose}_rejected"]) for whose in ("policy", "reference")
    )
    labels = [1, 1, 0, 0]
    close(loss_of(logps, reference, labels, loss_type="vanilla").value, pairs["outputs"]["kto_pair"], 1e-6)
    turned = loss_of(reference, logps, labels, loss_type="vanilla").value
    z = 0.1 * np.array([-0.5 - 0.25, 1.5 - 0.25, 0.5 - 1.0, 0.5 + 0.5])
    close(turned, (1 - 1 / (1 + np.exp(-z))).mean(), 1e-6)
