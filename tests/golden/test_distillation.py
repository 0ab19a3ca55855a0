"""TRL 1.16.0's generalised Jensen-Shannon divergence (GKDTrainer), values and gradients.

Its convention: beta weighs the teacher in the mixture, 0 and 1 are the forward and reverse KL, there is no factor for
the temperature, and the sum over the vocabulary is divided by the number of labels that are not -100.
"""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from alignment.algorithms.distillation import DistillationHyperparameters, distillation_loss
from alignment.models.decoder.split_divergence import DivergenceKind, TeacherTokens, divergence_logprobs
from alignment.models.decoder.split_vocabulary import VocabularyShare
from alignment.ops.head_product import HeadProduct
from alignment.parallel.comms.group import ALONE

KEYS = [
    "kd_generalized_jsd(beta=0.0, reduction=batchmean over valid tokens, temperature=1.0)",
    "kd_generalized_jsd(beta=0.0, reduction=batchmean over valid tokens, temperature=2.0)",
    "kd_generalized_jsd(beta=0.5, reduction=batchmean over valid tokens, temperature=1.0)",
    "kd_generalized_jsd(beta=0.5, reduction=batchmean over valid tokens, temperature=2.0)",
    "kd_generalized_jsd(beta=1.0, reduction=batchmean over valid tokens, temperature=1.0)",
    "kd_generalized_jsd(beta=1.0, reduction=batchmean over valid tokens, temperature=2.0)",
]


@pytest.mark.parametrize("key", KEYS)
def test_generalized_jsd(trl, precision, nearly, key):
    record = trl[key]
    inputs, params = record["inputs"], record["params"]
    labels = np.array(inputs["labels"])
    valid = labels != -100
    # Logits are hidden states whose head is the identity.
    student = precision.tensor(inputs["student"], grad=True)
    rows = paddle.to_tensor(np.flatnonzero(valid))
    hidden, taught = (
        paddle.gather(x.reshape([-1, x.shape[-1]]), rows) for x in (student, precision.tensor(inputs["teacher"]))
    )
    size = hidden.shape[-1]
    identity = HeadProduct(precision.tensor(np.eye(size)))
    output = divergence_logprobs(
        hidden,
        identity,
        paddle.to_tensor(labels[valid]),
        teacher=TeacherTokens(taught, identity, size),
        share=VocabularyShare(ALONE, 0),
        kind=DivergenceKind(params["beta"], params["temperature"]),
    )
    only = DistillationHyperparameters(kd_coef=1.0, beta=params["beta"], temperature=params["temperature"])
    loss = distillation_loss(output, fields={}, hyperparameters=only, denominator=int(valid.sum()))
    loss.value.backward()
    nearly(loss.value, record["outputs"]["loss"])
    nearly(student.grad, record["outputs"]["grad_student"])
