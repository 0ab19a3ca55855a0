"""The divergence between a model and its teacher at each target token, from the hidden states of both.

Logits of both exist only for a piece of the tokens at a time and are computed again in the backward pass. If the
vocabulary is split over processes, they exchange a few numbers per token. Legend: T tokens, V ids, v of them here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import paddle
import paddle.nn.functional as F
from paddle import Tensor
from paddle.autograd import PyLayer

from alignment.models.decoder.split_vocabulary import VocabularyShare
from alignment.ops.head_product import HeadProduct
from alignment.ops.pieces import divergence_tokens
from alignment.ops.softmax import not_finite_mark
from alignment.ops.token_logprobs import log_totals


@dataclass(frozen=True, slots=True)
class DivergenceKind:
    """Generalised Jensen-Shannon divergence (Agarwal et al. 2024) of softmax(logits / temperature).

    With m = beta q + (1 - beta) p for teacher q and student p it is beta KL(q, m) + (1 - beta) KL(p, m); 0 stands for
    the forward KL(q, p) and 1 for the reverse KL(p, q), as in TRL.
    """

    beta: float
    temperature: float


@dataclass(frozen=True, slots=True)
class TeacherTokens:
    """What the teacher knows of the tokens: its hidden states [T, H] before them, and its vocabulary head."""

    hidden: Tensor
    head: HeadProduct
    columns: int
    """The most columns that a process has of either model's head, so that all of them cut the tokens alike."""


def divergence_logprobs(
    hidden: Tensor,
    head: HeadProduct,
    targets: Tensor,
    *,
    teacher: TeacherTokens,
    share: VocabularyShare,
    kind: DivergenceKind,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (log-probs, divergences, the teacher's log-probs), [T] each, at least float32.

    Log-probs are those of ``targets`` [T] int64 at temperature 1. The first two carry gradients to ``hidden`` [T, H]
    and the weight of ``head``; the teacher gets none. If one head has more columns than the other, which is padding
    behind the same tokens, the divergence is over the ids of both.
    """
    return _Divergence.apply(hidden, head.weight, targets, (head, teacher, share, kind))


class _Divergence(PyLayer):
    """With p of the student at the temperature t and g as in ``_gain``: dD / dl = p (g - sum p g) / t."""

    @staticmethod
    def forward(ctx, hidden, weight, targets, inputs):
        head, teacher, share, kind = inputs
        found = []
        for piece in _pieces(teacher):
            rows = _Rows(head.logits(hidden[piece]), teacher.head.logits(teacher.hidden[piece]), share, kind)
            found.append(rows.measure(targets[piece]))
        logprobs, divergences, teachers, *kept = (paddle.concat(part) for part in zip(*found, strict=True))
        ctx.inputs = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(hidden, weight, targets, *kept)
        return logprobs, divergences, teachers

    @staticmethod
    def backward(ctx, grad, divergence_grad, _):
        hidden, _, targets, *kept = ctx.saved_tensor()
        head, teacher, share, kind = ctx.inputs
        grad = paddle.zeros_like(kept[0]) if grad is None else grad
        divergence_grad = paddle.zeros_like(kept[0]) if divergence_grad is None else divergence_grad
        hidden_grads, weight_grad = [], None
        for piece in _pieces(teacher):
            part = hidden[piece]
            rows = _Rows(head.logits(part), teacher.head.logits(teacher.hidden[piece]), share, kind)
            totals = [total[piece] for total in kept]
            slope = rows.logit_grad(targets[piece], totals, grad[piece], divergence_grad[piece])
            slope = head.slope(slope, head.bend(rows.logits))
            hidden_grads.append(head.hidden_grad(slope))
            if not head.weight.stop_gradient:
                weight_grad = head.add_weight_grad(weight_grad, part, slope)
            del rows, slope  # not kept beside those of the next piece
        hidden_grad = paddle.concat(hidden_grads)
        if share.group.size > 1:
            hidden_grad = share.group.sum_(hidden_grad, "head backward")
        return hidden_grad, None if weight_grad is None else head.rounded(weight_grad)


def _pieces(teacher: TeacherTokens) -> list[slice]:
    """Return slices of the tokens that are computed at once."""
    num_tokens, step = teacher.hidden.shape[0], divergence_tokens(teacher.columns)
    return [slice(i, min(i + step, num_tokens)) for i in range(0, num_tokens, step)]


class _Rows:
    """A piece of the tokens with the logits of both models."""

    def __init__(self, logits: Tensor, teacher: Tensor, share: VocabularyShare, kind: DivergenceKind) -> None:
        self.logits, self._teacher, self._share, self._kind = logits, teacher, share, kind
        columns = min(logits.shape[1], teacher.shape[1])
        self._student_scaled = _scaled(logits, columns, kind.temperature)
        self._teacher_scaled = _scaled(teacher, columns, kind.temperature)

    def measure(self, targets: Tensor) -> list[Tensor]:
        """Return log-probs, divergences, the teacher's log-probs, and what ``logit_grad`` needs, [rows] each."""
        logits = [self.logits, self._teacher]
        scaled = [self._student_scaled, self._teacher_scaled]
        own = [_own_total(rows) for rows in logits]
        own += [total if a is b else _own_total(b) for a, b, total in zip(logits, scaled, own, strict=True)]
        totals = self._combine(own)
        logp = self._student_scaled - totals[2].unsqueeze(-1)
        logq = self._teacher_scaled - totals[3].unsqueeze(-1)
        terms, gain = _terms(logp, logq, self._kind.beta)
        sums = [self._pick(self.logits, targets), self._pick(self._teacher, targets), terms.sum(axis=-1)]
        sums.append(paddle.zeros_like(sums[2]) if gain is None else (paddle.exp(logp) * gain).sum(axis=-1))
        picked, taught, divergences, gains = self._sum(paddle.stack(sums))
        return [picked - totals[0], divergences, taught - totals[1], totals[0], totals[2], totals[3], gains]

    def logit_grad(self, targets: Tensor, kept: list[Tensor], grad: Tensor, divergence_grad: Tensor) -> Tensor:
        """Return the gradient [rows, v] of ``grad`` log-probs + ``divergence_grad`` divergences."""
        total, student_total, teacher_total, gains = (part.unsqueeze(-1) for part in kept)
        slope = paddle.exp(self.logits - total) * -grad.unsqueeze(-1)
        logp, logq = self._student_scaled - student_total, self._teacher_scaled - teacher_total
        gain = _gain(logp, logq, self._kind.beta)
        change = paddle.exp(logp) - paddle.exp(logq) if gain is None else paddle.exp(logp) * (gain - gains)
        change = change * (divergence_grad / self._kind.temperature).unsqueeze(-1)
        columns = change.shape[1]
        if columns < slope.shape[1]:
            slope[:, :columns] = slope[:, :columns] + change
        else:
            slope = slope + change
        own, held = self._share.columns_of(targets, slope.shape[1])
        return paddle.index_put_(
            slope, (paddle.arange(slope.shape[0]), own), grad * held.astype(grad.dtype), accumulate=True
        )

    def _pick(self, logits: Tensor, targets: Tensor) -> Tensor:
        columns, held = self._share.columns_of(targets, logits.shape[1])
        index = paddle.stack([paddle.arange(logits.shape[0]), columns], axis=-1)
        return paddle.gather_nd(logits, index) * held.astype(logits.dtype)

    def _combine(self, own: list[Tensor]) -> list[Tensor]:
        """Return the log-sum-exps of whole rows from those of this process's columns."""
        if self._share.group.size == 1:
            return own
        stacked = paddle.stack(own)
        highest = self._share.group.max_(stacked.clone(), "log totals")
        return list(highest + paddle.log(self._sum(paddle.exp(stacked - highest))))

    def _sum(self, numbers: Tensor) -> Tensor:
        return numbers if self._share.group.size == 1 else self._share.group.sum_(numbers, "divergence")


def _scaled(logits: Tensor, columns: int, temperature: float) -> Tensor:
    """Return the first ``columns`` of ``logits`` over the temperature: the same tensor if that changes nothing."""
    kept = logits if columns == logits.shape[1] else logits[:, :columns]
    return kept if temperature == 1 else kept / temperature


def _own_total(logits: Tensor) -> Tensor:
    """Return log sum exp(logits) [rows]; NaN for rows that are not finite."""
    mark = not_finite_mark(logits)
    total = log_totals(logits, F.softmax(logits))
    return total if mark is None else total + mark.flatten()


def _terms(logp: Tensor, logq: Tensor, beta: float) -> tuple[Tensor, Tensor | None]:
    """Return what each id adds to the divergence, and ``_gain``."""
    gain = _gain(logp, logq, beta)
    if gain is None:
        return paddle.exp(logq) * (logq - logp), None
    if beta == 1:
        return paddle.exp(logp) * gain, gain
    logm = logp - gain / (1 - beta)
    return beta * paddle.exp(logq) * (logq - logm) + paddle.exp(logp) * gain, gain


def _gain(logp: Tensor, logq: Tensor, beta: float) -> Tensor | None:
    """Return the derivative of the divergence by p up to a constant; None for the forward KL, where it is -q / p."""
    if beta == 0:
        return None
    if beta == 1:
        return logp - logq
    # log m by its larger part, so that neither exponential overflows and m is never zero.
    mine, theirs = logp + math.log1p(-beta), logq + math.log(beta)
    logm = paddle.maximum(mine, theirs) + paddle.log1p(paddle.exp(-(mine - theirs).abs()))
    return (1 - beta) * (logp - logm)
