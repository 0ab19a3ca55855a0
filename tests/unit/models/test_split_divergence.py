"""Divergences from the hidden states of two models equal those of whole logits; several processes: parity of kd."""

from __future__ import annotations

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle.base import core

from alignment.models.decoder.split_divergence import DivergenceKind, TeacherTokens, divergence_logprobs
from alignment.models.decoder.split_vocabulary import VocabularyShare
from alignment.ops import pieces
from alignment.ops.head_product import HeadProduct
from alignment.parallel.comms.group import ALONE

RANDOM = np.random.default_rng(0)
HIDDEN, WEIGHT = RANDOM.standard_normal((7, 5)), RANDOM.standard_normal((5, 13))
TEACHER_HIDDEN, TEACHER_WEIGHT = RANDOM.standard_normal((7, 4)), RANDOM.standard_normal((4, 13))
TARGETS = paddle.to_tensor(RANDOM.integers(0, 11, 7))
SLOPES = RANDOM.standard_normal((2, 7))
ALL = VocabularyShare(ALONE, 0)
BETAS = (0.0, 1.0, 0.5, 0.1)


def of_whole_logits(z, t, kind):
    """The three numbers by Paddle's own functions on whole rows."""
    columns = min(z.shape[1], t.shape[1])
    logp, logq = (F.log_softmax(x[:, :columns] / kind.temperature) for x in (z, t))
    p, q, beta = logp.exp(), logq.exp(), kind.beta
    if beta in (0.0, 1.0):
        divergences = (q * (logq - logp) if beta == 0 else p * (logp - logq)).sum(axis=-1)
    else:
        logm = (beta * q + (1 - beta) * p).log()
        divergences = (beta * q * (logq - logm) + (1 - beta) * p * (logp - logm)).sum(axis=-1)
    picked = [-F.cross_entropy(x, TARGETS.unsqueeze(-1), reduction="none").flatten() for x in (z, t)]
    return picked[0], divergences, picked[1]


def numbers(compute, dtype="float64", teacher_weight=TEACHER_WEIGHT, weight=WEIGHT, transposed=False):
    """Return (log-probs, divergences, the teacher's log-probs, gradients of hidden states and weight)."""
    hidden, weight = (paddle.to_tensor(x, dtype, stop_gradient=False) for x in (HIDDEN, weight))
    teacher = [paddle.to_tensor(x, dtype) for x in (TEACHER_HIDDEN, teacher_weight)]
    logprobs, divergences, teachers = compute(hidden, weight.t() if transposed else weight, *teacher)
    slopes = paddle.to_tensor(SLOPES, dtype)
    (logprobs * slopes[0] + divergences * slopes[1]).sum().backward()
    return [x.numpy() for x in (logprobs, divergences, teachers, hidden.grad, weight.grad)]


def in_pieces(kind, transposed=False):
    def compute(hidden, weight, teacher_hidden, teacher_weight):
        teacher = TeacherTokens(teacher_hidden, HeadProduct(teacher_weight), max(weight.shape[-1], 13))
        head = HeadProduct(weight, transposed)
        return divergence_logprobs(hidden, head, TARGETS, teacher=teacher, share=ALL, kind=kind)

    return compute


def whole(kind):
    return lambda hidden, weight, taught, head: of_whole_logits(hidden @ weight, taught @ head, kind)


@pytest.mark.parametrize("logit_bytes", [64 << 20, 4 * 13 * 3 * pieces.DIVERGENCE_SHARE, 1])
@pytest.mark.parametrize("temperature", [1.0, 1.7])
@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-11), ("float32", 2e-5)])
def test_equal_to_whole_logits(monkeypatch, logit_bytes, temperature, beta, dtype, tolerance):
    monkeypatch.setattr(pieces, "LOGIT_BYTES", logit_bytes)
    kind = DivergenceKind(beta, temperature)
    found = numbers(in_pieces(kind), dtype)
    for one, other in zip(found, numbers(whole(kind)), strict=True):
        assert one.dtype == dtype
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("wider", ["student", "teacher"])
def test_padding_of_one_head_takes_no_part(beta, wider):
    """Heads of one family are padded to different widths: 151,936 and 152,064 ids for one tokenizer."""
    kind = DivergenceKind(beta, 1.3)
    cut = {"teacher_weight": TEACHER_WEIGHT[:, :11]} if wider == "student" else {"weight": WEIGHT[:, :11]}
    for one, other in zip(numbers(in_pieces(kind), **cut), numbers(whole(kind), **cut), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-11)


def test_a_tied_head_is_read_by_rows():
    kind = DivergenceKind(0.5, 1.0)
    plain = numbers(in_pieces(kind))
    tied = numbers(lambda h, w, t, v: in_pieces(kind, transposed=True)(h, w.t().t(), t, v), transposed=True)
    for one, other in zip(tied, plain, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("beta", BETAS)
def test_a_student_equal_to_its_teacher_has_no_divergence_and_no_slope(beta):
    def compute(hidden, weight, *_):
        teacher = TeacherTokens(hidden.detach(), HeadProduct(weight.detach()), 13)
        found = divergence_logprobs(
            hidden, HeadProduct(weight), TARGETS, teacher=teacher, share=ALL, kind=DivergenceKind(beta, 1.0)
        )
        np.testing.assert_array_equal(found[0].numpy(), found[2].numpy())
        return found[0] * 0, found[1], found[2]

    _, divergences, _, *gradients = numbers(compute)
    for part in (divergences, *gradients):
        np.testing.assert_allclose(part, 0, atol=1e-13)


@pytest.mark.parametrize("beta", BETAS)
def test_far_apart_models_give_finite_numbers(beta):
    """In float32 both exp(logp) and exp(logq) are zero at some ids; p and q never meet."""
    hidden = paddle.to_tensor(np.full((7, 5), 40.0), "float32", stop_gradient=False)
    taught = paddle.to_tensor(np.full((7, 4), -40.0), "float32")
    weight, other = (paddle.to_tensor(x, "float32") for x in (WEIGHT, TEACHER_WEIGHT))
    _, divergences, _ = in_pieces(DivergenceKind(beta, 1.0))(hidden, weight, taught, other)
    divergences.sum().backward()
    assert np.isfinite(divergences.numpy()).all() and np.isfinite(hidden.grad.numpy()).all()


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("side", ["student", "teacher"])
def test_what_is_not_finite_is_not_hidden(beta, side):
    hidden, taught = HIDDEN.copy(), TEACHER_HIDDEN.copy()
    (hidden if side == "student" else taught)[3] = np.nan
    arrays = (paddle.to_tensor(x, "float32") for x in (hidden, WEIGHT, taught, TEACHER_WEIGHT))
    logprobs, divergences, teachers = in_pieces(DivergenceKind(beta, 1.0))(*arrays)
    alone = np.arange(7) == 3
    np.testing.assert_array_equal(np.isnan(divergences.numpy()), alone)
    np.testing.assert_array_equal(np.isnan((logprobs if side == "student" else teachers).numpy()), alone)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("beta", [0.0, 1.0, 0.5])
def test_the_tensors_in_memory_are_those_that_the_planner_counts(monkeypatch, beta, temperature):
    columns, tokens, width = 4096, 128, 8
    monkeypatch.setattr(pieces, "LOGIT_BYTES", 4 * columns * tokens * pieces.DIVERGENCE_SHARE // 2)
    arrays = [RANDOM.standard_normal(shape) for shape in [(tokens, width), (width, columns)] * 2]
    hidden, weight, taught, other = (paddle.to_tensor(x, "float32") for x in arrays)
    hidden.stop_gradient = weight.stop_gradient = False
    teacher = TeacherTokens(taught, HeadProduct(other), columns)
    targets = paddle.zeros([tokens], "int64")

    def peak(work):
        core.host_memory_stat_reset_peak_value("Allocated", 0)
        before = core.host_memory_stat_current_value("Allocated", 0)
        result = work()
        return result, (core.host_memory_stat_peak_value("Allocated", 0) - before) / (4 * columns * tokens // 2)

    kind = DivergenceKind(beta, temperature)
    found, forward = peak(
        lambda: divergence_logprobs(hidden, HeadProduct(weight), targets, teacher=teacher, share=ALL, kind=kind)
    )
    _, backward = peak(lambda: (found[0].sum() + found[1].sum()).backward())
    expected = pieces.divergence_tensors(beta, temperature)
    assert (forward, backward) == (pytest.approx(expected, abs=0.3), pytest.approx(expected + 1, abs=0.5))
