"""Log-probs of given tokens, and entropies, from logits or from hidden states.

In float32 on a CPU they are computed by compiled kernels, otherwise by softmax and cross-entropy: on a CPU Paddle's
``log_softmax`` and ``logsumexp`` take 10 to 1000 times longer. Paddle's CPU kernels give no log-prob far below -64.
"""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle.autograd import PyLayer

from alignment.ops.head_product import HeadProduct, split_temperature
from alignment.ops.native import training_ops
from alignment.ops.native.selection import runs_natively
from alignment.ops.precision import is_half, scale_by, widen
from alignment.ops.softmax import not_finite_mark


def token_logprobs(logits: paddle.Tensor, targets: paddle.Tensor, *, temperature: float = 1.0) -> paddle.Tensor:
    """Return log softmax(logits / temperature) at ``targets`` [T] int64; logits [T, V] -> [T], at least float32."""
    if runs_natively(logits):
        return _NativeLogprobs.apply(logits, targets, temperature)
    scaled = scale_by(widen(logits), 1.0 / temperature)
    mark = not_finite_mark(scaled)
    logprobs = -F.cross_entropy(scaled, targets.unsqueeze(-1), reduction="none").flatten()
    return logprobs if mark is None else logprobs + mark.flatten()


def token_entropy(logits: paddle.Tensor, *, temperature: float = 1.0) -> paddle.Tensor:
    """Return the entropy in nats of softmax(logits / temperature); logits [T, V] -> [T], at least float32."""
    if runs_natively(logits):
        return _NativeLogprobs.apply(logits, None, temperature)
    return _entropy(scale_by(widen(logits), 1.0 / temperature))


def head_logprobs(
    hidden: paddle.Tensor,
    weight: paddle.Tensor,
    targets: paddle.Tensor,
    *,
    transposed: bool = False,
    temperature: float = 1.0,
    cap: float = 0.0,
    with_entropy: bool = False,
) -> tuple[paddle.Tensor, paddle.Tensor | None]:
    """Return (log-probs [T], entropies [T] or None) of ``targets`` under softmax(hidden @ weight / temperature).

    ``cap`` is the soft-cap of the product (0: none). hidden [T, H], weight [H, V] ([V, H] if ``transposed``), targets
    [T] int64. Both results are differentiable with respect to ``hidden`` and ``weight`` (an unused entropy costs
    nothing in the backward pass). Many logits, and those in half precision, are computed in pieces and recomputed in
    the backward pass.
    """
    if runs_natively(hidden, weight):
        logprobs, entropy = _NativeHeadLogprobs.apply(hidden, weight, targets, (transposed, 1.0, cap), temperature)
        return logprobs, entropy if with_entropy else None
    hidden, temperature = split_temperature(hidden, temperature, cap=cap)
    options = transposed, temperature, cap
    head = HeadProduct(weight, *options)
    if is_half(hidden) or len(head.pieces(hidden.shape[0])) > 1:
        logprobs, entropy = _HeadLogprobs.apply(hidden, weight, targets, options, with_entropy)
        return logprobs, entropy if with_entropy else None
    logits = head.logits(hidden)
    return token_logprobs(logits, targets), _entropy(logits) if with_entropy else None


def _entropy(logits: paddle.Tensor) -> paddle.Tensor:
    """Return H = log sum exp(l) - sum p l, [T]."""
    softmax = F.softmax(logits)
    expected = paddle.matmul(softmax * logits, paddle.ones([logits.shape[1], 1], logits.dtype))
    return log_totals(logits, softmax) - expected.flatten()


def log_totals(logits: paddle.Tensor, softmax: paddle.Tensor) -> paddle.Tensor:
    """Return log sum exp(l) [T] as l - log p of the likeliest token, whose p never rounds to zero."""
    likeliest = paddle.stack([paddle.arange(logits.shape[0]), paddle.argmax(logits, axis=-1)], axis=-1)
    return paddle.gather_nd(logits, likeliest) - paddle.log(paddle.gather_nd(softmax, likeliest))


class _HeadLogprobs(PyLayer):
    """d log p_y / d logits = 1[y] - p;  d H / d logits = -p (log p + H). The backward pass recomputes the logits."""

    @staticmethod
    def forward(ctx, hidden, weight, targets, options, with_entropy):
        head = HeadProduct(weight, *options)
        logprobs, entropies = [], []
        for piece in head.pieces(hidden.shape[0]):
            logits = head.logits(hidden[piece])
            logprobs.append(token_logprobs(logits, targets[piece]))
            if with_entropy:
                entropies.append(_entropy(logits))
        out = paddle.concat(logprobs), paddle.concat(entropies or logprobs)
        ctx.options = options
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(hidden, weight, targets, out[1].detach())
        return out

    @staticmethod
    def backward(ctx, grad, entropy_grad):
        hidden, weight, targets, entropies = ctx.saved_tensor()
        head = HeadProduct(weight, *ctx.options)
        grad = paddle.zeros_like(entropies) if grad is None else grad
        hidden_grads, weight_grad = [], None
        for piece in head.pieces(hidden.shape[0]):
            part = hidden[piece]
            entropy = None if entropy_grad is None else (entropy_grad[piece], entropies[piece])
            logits = head.logits(part)
            slope = head.slope(_logit_grad(logits, targets[piece], grad[piece], entropy), head.bend(logits))
            hidden_grads.append(head.hidden_grad(slope))
            weight_grad = head.add_weight_grad(weight_grad, part, slope)
        return paddle.concat(hidden_grads), head.rounded(weight_grad)


def _logit_grad(logits: paddle.Tensor, targets: paddle.Tensor, grad: paddle.Tensor, entropy) -> paddle.Tensor:
    """Return the gradient [T, V] of sum(grad log p_y), plus that of the entropy if ``entropy`` = (its gradient, H)."""
    softmax = F.softmax(logits)
    if entropy is None:
        slope = softmax.multiply_(-grad.unsqueeze(-1))
    else:
        entropy_grad, value = entropy
        shift = entropy_grad * (log_totals(logits, softmax) - value) - grad
        slope = softmax.multiply_(shift.unsqueeze(-1) - logits * entropy_grad.unsqueeze(-1))
    return paddle.index_put_(slope, (paddle.arange(slope.shape[0]), targets), grad, accumulate=True)


class _NativeLogprobs(PyLayer):
    """Log-probs of targets, or entropies if there are no targets, by compiled kernels."""

    @staticmethod
    def forward(ctx, logits, targets, temperature):
        found = training_ops.logprobs(logits, targets, temperature)
        ctx.targets, ctx.temperature = targets, temperature
        ctx.save_for_backward(logits, *found.for_backward)
        return found.entropies if targets is None else found.logprobs

    @staticmethod
    def backward(ctx, grad):
        logits, *kept = ctx.saved_tensor()
        grads = (None, grad) if ctx.targets is None else (grad, None)
        return training_ops.logprobs_grad(logits, ctx.targets, ctx.temperature, kept=kept, grads=grads)


class _NativeHeadLogprobs(PyLayer):
    """``_HeadLogprobs`` by compiled kernels; logits in a single piece are kept and overwritten by their gradient."""

    @staticmethod
    def forward(ctx, hidden, weight, targets, options, temperature):
        head = HeadProduct(weight, *options)
        pieces = head.pieces(hidden.shape[0])
        found, logits = [], None
        for piece in pieces:
            logits = head.logits(hidden[piece])
            found.append(training_ops.logprobs(logits, targets[piece], temperature))
        ctx.logits = logits if len(pieces) == 1 else None
        ctx.kept = [row.for_backward for row in found]
        ctx.options, ctx.temperature = options, temperature
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(hidden, weight, targets)
        return paddle.concat([row.logprobs for row in found]), paddle.concat([row.entropies for row in found])

    @staticmethod
    def backward(ctx, *grads):
        hidden, weight, targets = ctx.saved_tensor()
        head = HeadProduct(weight, *ctx.options)
        kept_logits, ctx.logits = ctx.logits, None
        hidden_grads, weight_grad = [], None
        for piece, kept in zip(head.pieces(hidden.shape[0]), ctx.kept, strict=True):
            part = hidden[piece]
            logits = head.logits(part) if kept_logits is None else kept_logits
            bend = head.bend(logits)
            grads_of_piece = [None if grad is None else grad[piece] for grad in grads]
            slope = training_ops.logprobs_grad(
                logits, targets[piece], ctx.temperature, kept=kept, grads=grads_of_piece, in_place=True
            )
            slope = slope if bend is None else head.slope(slope, bend)
            hidden_grads.append(head.hidden_grad(slope))
            weight_grad = head.add_weight_grad(weight_grad, part, slope)
        return paddle.concat(hidden_grads), weight_grad
