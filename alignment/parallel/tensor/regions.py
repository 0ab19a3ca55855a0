"""Communication on entering and leaving a tensor-parallel region (Shoeybi et al. 2019).

Inside a region every process has all M tokens and computes its share of the columns. Outside, all processes hold the
same tokens; under sequence parallelism (Korthikanti et al. 2022) each holds ``rows`` of them, zero-padded at the end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import paddle
from paddle.autograd import PyLayer

from alignment.parallel.comms.group import ALONE, Group


@dataclass(frozen=True, slots=True)
class TensorRegion:
    """The region of one forward pass over M tokens; in a group of one process every method returns its argument."""

    group: Group = ALONE
    num_tokens: int = 0
    """M"""
    sequence_parallel: bool = False
    """Whether tokens outside the region are split."""

    @property
    def rows(self) -> int:
        """Tokens that this process holds outside the region, padding included."""
        return split_rows(self.num_tokens, self.group.size) if self.sequence_parallel else self.num_tokens

    def enter(self, x: paddle.Tensor) -> paddle.Tensor:
        """Return all tokens [M, H] of x [rows, H]; the backward pass sums the gradients of all processes."""
        if self.group.size == 1:
            return x
        return _EnterTokens.apply(x, self) if self.sequence_parallel else _Enter.apply(x, self.group)

    def leave(self, partial: paddle.Tensor) -> paddle.Tensor:
        """Return the sum [rows, H] of every process's ``partial`` [M, H]."""
        if self.group.size == 1:
            return partial
        return _LeaveTokens.apply(partial, self) if self.sequence_parallel else _Leave.apply(partial, self.group)

    def own(self, x: paddle.Tensor) -> paddle.Tensor:
        """Return those of x [M] that belong to the tokens this process holds outside, zero-padded; no gradient."""
        if self.group.size == 1 or not self.sequence_parallel:
            return x
        return _pad(x.unsqueeze(-1), self)[self.group.index].squeeze(-1)

    def collect(self, x: paddle.Tensor) -> paddle.Tensor:
        """Return all tokens [M, H] of x [rows, H] for work that every process repeats, with equal gradients."""
        return _CollectTokens.apply(x, self) if self.sequence_parallel and self.group.size > 1 else x


def split_rows(num_tokens: int, size: int) -> int:
    """Return how many of ``num_tokens`` tokens each of ``size`` processes holds, padding included."""
    return -(-num_tokens // size)


def enter(x: paddle.Tensor, group: Group) -> paddle.Tensor:
    """Return x unchanged; the backward pass sums its gradient over ``group``."""
    return x if group.size == 1 else _Enter.apply(x, group)


def embed_rows(
    ids: paddle.Tensor, weight: paddle.Tensor, *, first_row: int, look_up: Callable = paddle.nn.functional.embedding
) -> paddle.Tensor:
    """Return the embeddings [M, H] of ``ids`` [M]; zeros for ids outside ``weight``, which begins at ``first_row``.

    The others' ids read rows all over ``weight``: their gradients are zero, but a GPU adds them one after another where
    they meet in a row.
    """
    own_rows, size = ids - first_row, weight.shape[0]
    held = paddle.logical_and(own_rows >= 0, own_rows < size)
    rows = look_up(own_rows % size, weight)
    return rows * held.astype(rows.dtype).unsqueeze(-1)


def sum_over_copies(gradient: paddle.Tensor, group: Group, *, copies: int) -> paddle.Tensor:
    """Return the sum of ``gradient`` over the ``copies`` neighbours in ``group`` that hold the same rectangle.

    All of ``group`` must call this with the same shape; all rectangles are summed in one message.
    """
    if copies == 1:
        return gradient
    if copies == group.size:
        return group.sum_(gradient.clone(), "shared gradients")
    assert group.size % copies == 0, (group.size, copies)
    every = paddle.zeros([group.size // copies, *gradient.shape], gradient.dtype)
    every[group.index // copies] = gradient
    return group.sum_(every, "shared gradients")[group.index // copies]


def _gather_tokens(x: paddle.Tensor, region: TensorRegion) -> paddle.Tensor:
    return paddle.concat(region.group.gather(x, "tokens"))[: region.num_tokens]


def _pad(x: paddle.Tensor, region: TensorRegion) -> paddle.Tensor:
    """Return x [M, H] as [processes, rows, H]."""
    missing = region.rows * region.group.size - region.num_tokens
    if missing:
        x = paddle.concat([x, paddle.zeros([missing, x.shape[1]], x.dtype)])
    return x.reshape([region.group.size, region.rows, x.shape[1]])


class _Enter(PyLayer):
    """y = x; dx = sum over processes of dy."""

    @staticmethod
    def forward(ctx, x, group):
        ctx.group = group
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return ctx.group.sum_(grad.clone(), "entering backward")


class _Leave(PyLayer):
    """y = sum over processes of x; dx = dy."""

    @staticmethod
    def forward(ctx, x, group):
        return group.sum_(x.clone(), "leaving")

    @staticmethod
    def backward(ctx, grad):
        return grad


class _EnterTokens(PyLayer):
    """y = all tokens; dx = own tokens of the sum of dy."""

    @staticmethod
    def forward(ctx, x, region):
        ctx.region = region
        return _gather_tokens(x, region)

    @staticmethod
    def backward(ctx, grad):
        return ctx.region.group.reduce_scatter(_pad(grad, ctx.region), "entering backward")


class _LeaveTokens(PyLayer):
    """y = own tokens of the sum of x; dx = dy of all tokens."""

    @staticmethod
    def forward(ctx, x, region):
        ctx.region = region
        return region.group.reduce_scatter(_pad(x, region), "leaving")

    @staticmethod
    def backward(ctx, grad):
        return _gather_tokens(grad, ctx.region)


class _CollectTokens(PyLayer):
    """y = all tokens; dx = own tokens of dy, which is the same on every process."""

    @staticmethod
    def forward(ctx, x, region):
        ctx.region = region
        return _gather_tokens(x, region)

    @staticmethod
    def backward(ctx, grad):
        return _pad(grad, ctx.region)[ctx.region.group.index].clone()
