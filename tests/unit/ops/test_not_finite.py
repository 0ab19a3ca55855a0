"""NaN and infinity reach the results, compiled or not: Paddle's CPU softmax answers them with finite numbers."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from alignment.models.decoder.logprobs import policy_logprobs
from alignment.models.decoder.split_vocabulary import VocabularyShare, split_logprobs
from alignment.ops.native.selection import use_native_ops
from alignment.ops.softmax import masked_softmax
from alignment.ops.token_logprobs import token_entropy, token_logprobs
from alignment.parallel.comms.group import ALONE
from alignment.records import TokenBatch
from tests.tiny_models import tiny_causal

BATCH = TokenBatch.build([np.array([1, 5, 6, 3]), np.array([1, 7, 2])], [np.array([2, 3]), np.array([2])])
VALUES = [float("nan"), float("inf"), float("-inf")]


@pytest.fixture(params=[True, False], ids=["compiled", "paddle"])
def native(request):
    use_native_ops(request.param)
    yield request.param
    use_native_ops(False)


def _model():
    return tiny_causal(std=0.5, model_type="qwen2")


NAMES = [name for name, _ in _model().named_parameters()]


@pytest.mark.parametrize("value", VALUES[:2])
@pytest.mark.parametrize("name", NAMES)
def test_a_weight_that_is_not_finite_is_seen_in_every_log_prob(name, value, native):
    model = _model()
    weight = dict(model.named_parameters())[name]
    damaged = np.zeros(weight.shape, np.float32)
    damaged[1 if "embed_tokens" in name else ...] = value
    weight.set_value(weight + paddle.to_tensor(damaged))
    logprobs, entropies = policy_logprobs(model, BATCH, temperature=1.0, with_entropy=True)
    assert np.isnan(logprobs.numpy()).all() and np.isnan(entropies.numpy()).all()


@pytest.mark.parametrize("value", VALUES[:2])
def test_a_row_with_one_logit_that_is_not_finite_is_nan_and_the_others_are_as_before(value, native):
    logits = np.random.default_rng(0).normal(size=(3, 16)).astype(np.float32)
    targets = paddle.to_tensor([1, 2, 3])
    whole = token_logprobs(paddle.to_tensor(logits), targets).numpy()
    logits[1, 9] = value
    rows = paddle.to_tensor(logits)
    for found, expected in ((token_logprobs(rows, targets), whole), (token_entropy(rows), None)):
        assert np.isnan(found.numpy()).tolist() == [False, True, False]
        if expected is not None:
            np.testing.assert_array_equal(found.numpy()[[0, 2]], expected[[0, 2]])
    share = VocabularyShare(ALONE, 0)
    split, _ = split_logprobs(rows, paddle.eye(16), targets, share=share)
    assert np.isnan(split.numpy()).tolist() == [False, True, False]


@pytest.mark.parametrize("value", VALUES)
def test_softmax_of_damaged_scores(value):
    scores = paddle.to_tensor([[0.0, value], [0.0, 0.0]])
    mask = paddle.to_tensor([0.0, -1e30])
    found = masked_softmax(scores, mask).numpy()
    assert np.isnan(found[0]).all()
    np.testing.assert_allclose(found[1], [1.0, 0.0], atol=1e-20)
