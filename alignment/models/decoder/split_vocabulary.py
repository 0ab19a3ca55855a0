"""Log-probs, entropies and the likeliest token when the vocabulary is split over processes.

Logits are never gathered. With L_r the log-sum-exp over the tokens of process r, two messages of a few numbers per
token give L = log sum_r exp(L_r), the target's logit and the expected logit.
"""

from __future__ import annotations

from dataclasses import dataclass

import paddle
import paddle.nn.functional as F
from paddle.autograd import PyLayer

from alignment.ops.head_product import HeadProduct, split_temperature
from alignment.ops.precision import widen
from alignment.ops.softmax import not_finite_mark
from alignment.ops.token_logprobs import log_totals
from alignment.parallel.comms.group import Group
from alignment.parallel.tensor.regions import TensorRegion, enter


@dataclass(frozen=True, slots=True)
class VocabularyShare:
    """The tokens whose logits this process has: from ``first`` on, as many as its logits have columns."""

    group: Group
    first: int

    def columns_of(self, tokens: paddle.Tensor, columns: int) -> tuple[paddle.Tensor, paddle.Tensor]:
        """Return (column [T] of each of ``tokens`` [T], whether this process has it [T]); others get column 0."""
        own = tokens - self.first
        held = paddle.logical_and(own >= 0, own < columns)
        return paddle.where(held, own, paddle.zeros_like(own)), held


def split_logprobs(
    hidden: paddle.Tensor,
    weight: paddle.Tensor,
    targets: paddle.Tensor,
    *,
    share: VocabularyShare,
    with_entropy: bool = False,
    **form: float,
) -> tuple[paddle.Tensor, paddle.Tensor | None]:
    """Return (log-probs [T], entropies [T] or None) of ``targets`` under softmax(hidden @ weight / temperature).

    ``form``: whether the weight is ``transposed``, the ``temperature`` and the ``cap`` of a ``HeadProduct``. hidden
    [T, H] and targets [T] int64 are the same on all processes of ``share``, and so are the results (at least float32);
    weight [H, v] ([v, H] when transposed) is this process's part. The gradient of ``hidden`` is whole on each process,
    that of ``weight`` is this process's part.
    """
    head = HeadProduct(weight, **form)
    hidden, temperature = split_temperature(hidden, head.temperature, cap=head.cap)
    options = head.transposed, temperature, head.cap
    logprobs, entropies = _SplitLogprobs.apply(hidden, weight, targets, share, options, with_entropy)
    return logprobs, entropies if with_entropy else None


def logits_above_target(
    hidden: paddle.Tensor, head: HeadProduct, targets: paddle.Tensor, *, share: VocabularyShare, vocab_size: int
) -> paddle.Tensor:
    """Return the mean of a token's logits over the vocabulary minus the logit of its target, [T] float32.

    For arguments and gradients see ``split_logprobs``; ``vocab_size`` counts the tokens of all processes.
    """
    columns, held = share.columns_of(targets, head.columns)
    if head.cap:
        logits = head.logits(enter(hidden, share.group))
        own = paddle.take_along_axis(logits, columns.unsqueeze(-1), axis=1).squeeze(-1) * held.astype(logits.dtype)
        return TensorRegion(share.group).leave(logits.sum(axis=-1) / vocab_size - own)
    vocabulary = 0 if head.transposed else 1
    own = paddle.index_select(head.weight, columns, axis=vocabulary)
    own = widen(own if head.transposed else own.t()) * held.astype("float32").unsqueeze(-1)
    means = head.weight.sum(axis=vocabulary, dtype="float32") / vocab_size
    partial = ((means - own) * widen(enter(hidden, share.group))).sum(axis=-1)
    return TensorRegion(share.group).leave(partial)


def split_argmax(logits: paddle.Tensor, share: VocabularyShare) -> paddle.Tensor:
    """Return the likeliest token [T] int64 for logits [T, v], this process's part; ties give the first token."""
    highest = logits.max(axis=-1)
    best = share.group.max_(highest.clone(), "argmax")
    tokens = logits.argmax(axis=-1) + share.first
    unlikely = paddle.full_like(tokens, 2**62)
    return -share.group.max_(-paddle.where(highest == best, tokens, unlikely), "argmax")


class _SplitLogprobs(PyLayer):
    """With p = exp(l - L): d log p_y / dl = 1[y] - p;  dH / dl = -p (l - L + H); own columns only."""

    @staticmethod
    def forward(ctx, hidden, weight, targets, share, options, with_entropy):
        head = HeadProduct(weight, *options)
        pieces = head.pieces(hidden.shape[0])
        own, picked, expected = [], [], []
        for piece in pieces:
            logits = head.logits(hidden[piece])
            softmax = F.softmax(logits)
            totals, mark = log_totals(logits, softmax), not_finite_mark(logits)
            own.append(totals if mark is None else totals + mark.flatten())
            columns, held = share.columns_of(targets[piece], logits.shape[1])
            index = paddle.stack([paddle.arange(logits.shape[0]), columns], axis=-1)
            picked.append(paddle.gather_nd(logits, index) * held.astype(logits.dtype))
            if with_entropy:
                ones = paddle.ones([logits.shape[1], 1], logits.dtype)
                expected.append(paddle.matmul(softmax * logits, ones).flatten())
        ctx.kept = logits if len(pieces) == 1 else None
        own_totals, picked = paddle.concat(own), paddle.concat(picked)
        expected = paddle.concat(expected) if with_entropy else paddle.zeros_like(picked)
        totals, target_logits, means = _combine(own_totals, picked, expected, share.group)
        ctx.share, ctx.options = share, options
        ctx.set_materialize_grads(False)
        entropies = totals - means
        ctx.save_for_backward(hidden, weight, targets, own_totals, totals, entropies)
        return target_logits - totals, entropies

    @staticmethod
    def backward(ctx, grad, entropy_grad):
        hidden, weight, targets, own_totals, totals, entropies = ctx.saved_tensor()
        head = HeadProduct(weight, *ctx.options)
        grad = paddle.zeros_like(totals) if grad is None else grad
        scale = paddle.exp(own_totals - totals)
        shift = -grad if entropy_grad is None else entropy_grad * (totals - entropies) - grad
        hidden_grads, weight_grad = [], None
        for piece in head.pieces(hidden.shape[0]):
            part = hidden[piece]
            logits = head.logits(part) if ctx.kept is None else ctx.kept
            factor = (shift * scale)[piece].unsqueeze(-1)
            if entropy_grad is not None:
                factor = factor - logits * (entropy_grad * scale)[piece].unsqueeze(-1)
            slope, bend = F.softmax(logits).multiply_(factor), head.bend(logits)
            columns, held = ctx.share.columns_of(targets[piece], logits.shape[1])
            own_grad = grad[piece] * held.astype(grad.dtype)
            slope = paddle.index_put_(slope, (paddle.arange(slope.shape[0]), columns), own_grad, accumulate=True)
            slope = head.slope(slope, bend)
            hidden_grads.append(head.hidden_grad(slope))
            weight_grad = head.add_weight_grad(weight_grad, part, slope)
        return ctx.share.group.sum_(paddle.concat(hidden_grads), "head backward"), head.rounded(weight_grad)


def _combine(
    own_totals: paddle.Tensor, picked: paddle.Tensor, expected: paddle.Tensor, group: Group
) -> tuple[paddle.Tensor, paddle.Tensor, paddle.Tensor]:
    """Return (log-sum-exp, target logit, expected logit), each [T], of the whole vocabulary from each process's."""
    highest = group.max_(own_totals.clone(), "log totals")
    weights = paddle.exp(own_totals - highest)
    sums = group.sum_(paddle.stack([weights, picked, weights * expected]), "log totals")
    return highest + paddle.log(sums[0]), sums[1], sums[2] / sums[0]
