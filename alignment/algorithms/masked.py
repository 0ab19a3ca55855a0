"""Sums, means and whitening over the real tokens of padded arrays.

Legend: N rows, R padded response. A mask is 1 on real tokens. Values under the mask are replaced, not multiplied by
zero, so that NaN in the padding never reaches a result.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

from alignment.algorithms import late_paddle as paddle

if TYPE_CHECKING:
    from paddle import Tensor


Reduction = Literal["token", "sequence", "constant"]
"""``token``: every token has the same weight; ``sequence``: every row has; ``constant``: the sum of each row is divided
by the same length, so tokens of longer rows do not count less (Liu et al. 2025, section 3.2).
"""

ROUNDINGS = 16
"""A standard deviation of fewer units in the last place of the mean counts as rounding error."""


def zero_outside(x: Tensor, mask: Tensor) -> Tensor:
    """Return ``x`` with zeros where ``mask`` is 0; both [N, R]."""
    return paddle.where(mask > 0, x, paddle.zeros_like(x))


def masked_sum(x: Tensor, mask: Tensor, *, dim: int | None = None) -> Tensor:
    """Sum ``x`` [N, R] where ``mask`` is 1, over all axes or over ``dim``."""
    return zero_outside(x, mask).sum(axis=dim)


def masked_mean(x: Tensor, mask: Tensor, *, dim: int | None = None) -> Tensor:
    """Average ``x`` [N, R] where ``mask`` is 1, over all axes or over ``dim``; 0 without real tokens."""
    return masked_sum(x, mask, dim=dim) / _count(mask, x, dim)


def masked_normalize(x: Tensor, mask: Tensor, *, dim: int, eps: float = 1e-8) -> Tensor:
    """Shift and scale ``x`` [N, R] to mean 0 and (biased) variance 1 along ``dim``; zero under the mask.

    Computed in float64, so that equal values become 0.
    """
    wide = x.astype("float64")
    count = paddle.unsqueeze(_count(mask, wide, dim), dim)
    centred = zero_outside(wide - paddle.unsqueeze(masked_sum(wide, mask, dim=dim), dim) / count, mask)
    variance = (centred**2).sum(axis=dim, keepdim=True) / count
    return (centred * paddle.rsqrt(variance + eps)).astype(x.dtype)


def masked_moments(x: Tensor, mask: Tensor, *, unbiased: bool = False) -> tuple[Tensor, Tensor]:
    """Return mean and variance (scalars) of ``x`` where ``mask`` is 1.

    The variance is computed in a second pass in float64, and is 0 if it is no more than rounding error. ``unbiased``
    divides by count - 1. Without real tokens both are 0.
    """
    mean, variance = _wide_moments(x, mask, unbiased)
    return mean.astype(x.dtype), variance.astype(x.dtype)


def _wide_moments(x: Tensor, mask: Tensor, unbiased: bool) -> tuple[Tensor, Tensor]:
    """Return ``masked_moments`` in float64: the float32 mean of equal numbers may differ from that number."""
    wide, ones = x.astype("float64"), paddle.ones(x.shape, "float64")
    count, total = masked_sum(ones, mask), masked_sum(wide, mask)
    mean = total / paddle.clip(count, min=1.0)
    squares = masked_sum((wide - mean) ** 2, mask)
    variance = squares / paddle.clip(count - float(unbiased), min=1.0)
    noise = (ROUNDINGS * paddle.finfo(x.dtype).eps * mean) ** 2
    return mean, paddle.where(variance > noise, variance, paddle.zeros_like(variance))


def masked_whiten(
    x: Tensor, mask: Tensor, *, shift_mean: bool = True, unbiased: bool = False, eps: float = 1e-8
) -> Tensor:
    """Scale ``x`` [N, R] to variance 1 over all real tokens; zero under the mask.

    ``shift_mean`` also moves the mean to 0 (False keeps it). ``eps`` is added to the standard deviation. Equal values
    become 0 (or their mean), without rounding noise.
    """
    mean, variance = _wide_moments(x, mask, unbiased)
    centred = x.astype("float64") - mean
    whitened = paddle.where(variance > 0, centred / (paddle.sqrt(variance) + eps), paddle.zeros_like(centred))
    return zero_outside((whitened if shift_mean else whitened + mean).astype(x.dtype), mask)


class TokenMean(NamedTuple):
    """Computes the share of a micro-batch in a global mean of token values.

    The denominator is global, so the shares of all micro-batches and ranks add up to the overall mean however the rows
    are split. Example: rows ``[[1, 3], [5, 0]]`` with mask ``[[1, 1], [1, 0]]`` give
    (1 + 3 + 5) / 3 = 3 by token, ((1 + 3) / 2 + 5) / 2 = 3.5 by sequence, and with the constant length 4
    ((1 + 3) / 4 + 5 / 4) / 2 = 1.125.
    """

    mask: Tensor
    """[n, R], 1 on real response tokens."""
    denominator: float | Tensor
    """The sum of ``count_units`` over all micro-batches and ranks of one update."""
    reduction: Reduction = "token"
    length: float = 1.0
    """Tokens that the sum of a row is divided by (``constant``)."""

    def of(self, x: Tensor) -> Tensor:
        """Return the share (a scalar) of ``x`` [n, R]."""
        assert self.reduction in get_args(Reduction), self.reduction
        if self.reduction == "constant":
            return masked_sum(x, self.mask).sum() / (self.denominator * self.length)
        return self.average(x)

    def average(self, x: Tensor) -> Tensor:
        """Return the share of ``x`` [n, R] in a mean that is reported and not learned from: a true one with
        ``constant`` too, where every row weighs the same.
        """
        by_row = masked_sum if self.reduction == "token" else masked_mean
        return by_row(x, self.mask, dim=-1).sum() / self.denominator


def count_units(mask: Any, reduction: Reduction) -> Any:
    """Count what ``TokenMean`` averages over: real tokens, or rows that have one. ``mask`` [N, R] numpy or paddle."""
    assert reduction in get_args(Reduction), reduction
    return mask.sum() if reduction == "token" else (mask.sum(-1) > 0).sum()


def _count(mask: Tensor, like: Tensor, dim: int | None) -> Tensor:
    # A mean over no tokens is 0, not 0 / 0, which would make the whole batch NaN.
    return paddle.clip((mask > 0).astype(like.dtype).sum(axis=dim), min=1.0)
