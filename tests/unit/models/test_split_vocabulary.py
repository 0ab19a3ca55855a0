"""Split log-probs in a group of one process equal those of the whole head; several: ``test_tensor_models.py``."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from alignment.models.decoder.split_vocabulary import (
    VocabularyShare,
    logits_above_target,
    split_argmax,
    split_logprobs,
)
from alignment.ops import pieces
from alignment.ops.head_product import HeadProduct
from alignment.ops.native.library import load_core
from alignment.ops.native.selection import use_native_ops
from alignment.ops.token_logprobs import head_logprobs
from alignment.parallel.comms.group import ALONE

RANDOM = np.random.default_rng(0)
HIDDEN, WEIGHT = RANDOM.standard_normal((7, 5)), RANDOM.standard_normal((5, 13))
TARGETS = paddle.to_tensor(RANDOM.integers(0, 13, 7))
SLOPES = paddle.to_tensor(RANDOM.standard_normal((2, 7)))
ALL = VocabularyShare(ALONE, 0)


def gradients(compute, dtype="float64", transposed=False, **options):
    """Return (log-probs, entropies, gradient of hidden, of weight) of ``compute``."""
    weight = WEIGHT.T if transposed else WEIGHT
    hidden, weight = (paddle.to_tensor(array, dtype, stop_gradient=False) for array in (HIDDEN, weight))
    logprobs, entropies = compute(hidden, weight, TARGETS, transposed=transposed, **options)
    slopes = SLOPES.astype(dtype)
    loss = (logprobs * slopes[0]).sum()
    if entropies is not None:
        loss = loss + (entropies * slopes[1]).sum()
    loss.backward()
    values = [logprobs, hidden.grad, weight.grad] + ([] if entropies is None else [entropies])
    return [value.numpy() for value in values]


@pytest.mark.parametrize("logit_bytes", [64 << 20, 4 * 13 * 3, 1])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 1e-5)])
@pytest.mark.parametrize("options", [{"with_entropy": True}, {"temperature": 0.6, "with_entropy": True}, {}])
def test_equal_to_the_whole_head(monkeypatch, logit_bytes, transposed, dtype, tolerance, options):
    monkeypatch.setattr(pieces, "LOGIT_BYTES", logit_bytes)
    found = gradients(
        lambda *given, **more: split_logprobs(*given, share=ALL, **more), dtype, transposed=transposed, **options
    )
    wanted = gradients(head_logprobs, dtype, transposed=transposed, **options)
    assert len(found) == (4 if "with_entropy" in options else 3)
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


def of_capped_logits(hidden, weight, targets, *, transposed, temperature=1.0, cap=0.0, with_entropy=False):
    """Return what ``head_logprobs`` does, by the definitions."""
    logits = paddle.matmul(hidden, weight, transpose_y=transposed)
    logits = cap * paddle.tanh(logits / cap) / temperature
    logp = logits - paddle.log(paddle.exp(logits).sum(axis=-1, keepdim=True))
    chosen = paddle.take_along_axis(logp, targets.unsqueeze(-1), axis=1).squeeze(-1)
    return chosen, -(paddle.exp(logp) * logp).sum(axis=-1) if with_entropy else None


@pytest.mark.parametrize("logit_bytes", [64 << 20, 4 * 13 * 3])
@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
def test_the_soft_cap_comes_before_the_temperature(monkeypatch, logit_bytes, native, transposed):
    if native and load_core() is None:
        pytest.skip("no kernel library here")
    monkeypatch.setattr(pieces, "LOGIT_BYTES", logit_bytes)
    options = {"cap": 1.5, "temperature": 0.6, "with_entropy": True}
    wanted = gradients(of_capped_logits, transposed=transposed, **options)
    computed = [(head_logprobs, "float32"), (head_logprobs, "float64")]
    computed.append((lambda *given, **more: split_logprobs(*given, share=ALL, **more), "float64"))
    use_native_ops(native)
    try:
        for compute, dtype in computed:
            found = gradients(compute, dtype, transposed=transposed, **options)
            tolerance = 1e-5 if dtype == "float32" else 1e-11
            for one, other in zip(found, wanted, strict=True):
                np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)
    finally:
        use_native_ops(False)


def test_logits_in_several_pieces_are_not_kept(monkeypatch):
    monkeypatch.setattr(pieces, "LOGIT_BYTES", 4 * 13 * 3)
    made = []
    compute = HeadProduct.logits
    monkeypatch.setattr(
        HeadProduct, "logits", lambda head, hidden: made.append(hidden.shape[0]) or compute(head, hidden)
    )
    gradients(lambda *given, **more: split_logprobs(*given, share=ALL, **more))
    assert made == [3, 3, 1] * 2, "made once forward and once backward"


def test_an_entropy_that_no_loss_uses():
    hidden, weight = (paddle.to_tensor(array, stop_gradient=False) for array in (HIDDEN, WEIGHT))
    logprobs, entropies = split_logprobs(hidden, weight, TARGETS, share=ALL, with_entropy=True)
    logprobs.sum().backward()
    alone = gradients(lambda *given, **more: split_logprobs(*given, share=ALL, **more))
    assert entropies.shape == [7] and hidden.grad.shape == list(alone[1].shape)


def test_extreme_logits_stay_finite():
    hidden = paddle.to_tensor([[1e4, 0.0], [-1e4, 0.0]], stop_gradient=False)
    weight = paddle.to_tensor([[1.0, 0.0, -1.0], [0.0, 0.0, 0.0]], stop_gradient=False)
    logprobs, entropies = split_logprobs(hidden, weight, paddle.to_tensor([2, 2]), share=ALL, with_entropy=True)
    assert logprobs.tolist() == [-2e4, 0.0] and entropies.tolist() == [0.0, 0.0]
    (logprobs + entropies).sum().backward()
    assert np.isfinite(hidden.grad.numpy()).all()


@pytest.mark.parametrize("transposed", [False, True])
def test_the_mean_logit_above_the_target_by_hand(transposed):
    """Logits 1, 4, 1 of target 1 and -1, -2, 0 of target 2: means 2 and -1."""
    weight = np.array([[1.0, 2.0, 0.0], [0.0, 1.0, 0.5]], np.float32)
    hidden = paddle.to_tensor([[1.0, 2.0], [-1.0, 0.0]])
    head = HeadProduct(paddle.to_tensor(weight.T if transposed else weight), transposed)
    found = logits_above_target(hidden, head, paddle.to_tensor([1, 2]), share=ALL, vocab_size=3)
    assert found.tolist() == pytest.approx([2 - 4, -1 - 0])
    capped = HeadProduct(head.weight, transposed, cap=2.0)
    found = logits_above_target(hidden, capped, paddle.to_tensor([1, 2]), share=ALL, vocab_size=3)
    logits = 2.0 * np.tanh(np.array([[1.0, 4.0, 1.0], [-1.0, -2.0, 0.0]]) / 2.0)
    assert found.tolist() == pytest.approx([logits[0].mean() - logits[0, 1], logits[1].mean() - logits[1, 2]])


def test_tokens_outside_the_share_have_no_column():
    columns, held = VocabularyShare(ALONE, 10).columns_of(paddle.to_tensor([9, 10, 14, 15]), 5)
    assert columns.tolist() == [0, 0, 4, 0]
    assert held.tolist() == [False, True, True, False]


def test_argmax_counts_from_the_first_token_and_takes_the_first_of_equals():
    logits = paddle.to_tensor([[0.0, 3.0, 3.0], [5.0, 1.0, 2.0]])
    assert split_argmax(logits, VocabularyShare(ALONE, 10)).tolist() == [11, 10]
