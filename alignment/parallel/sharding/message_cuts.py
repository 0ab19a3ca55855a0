"""How gradients and weights are cut into messages. Plain Python: the planner counts with it, and needs no Paddle."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")

BUCKET_BYTES = 25 << 20
"""A message's size, unless a single tensor is larger: large enough that latency does not count."""
SQUARED_AT_ONCE = 1 << 22
"""Elements squared at a time in float64, for the norm."""


def cut_buckets(tensors: Iterable[T], size: Callable[[T], int], limit: int | None = None) -> list[list[T]]:
    """Return ``tensors``, in order, as the runs that go in one message each.

    ``size`` gives the bytes of one; a message has at most ``limit`` (None: ``BUCKET_BYTES``), or a single tensor.
    """
    limit = BUCKET_BYTES if limit is None else limit
    buckets: list[list[T]] = []
    held = 0
    for tensor in tensors:
        if not buckets or held + size(tensor) > limit:
            buckets.append([])
            held = 0
        buckets[-1].append(tensor)
        held += size(tensor)
    return buckets


def cut_sections(units: Iterable[T], size: Callable[[T], int]) -> list[list[T]]:
    """Return ``units``, in order, as the runs that are reduced together: at least ``BUCKET_BYTES``, except the last."""
    sections: list[list[T]] = []
    current: list[T] = []
    for unit in units:
        current.append(unit)
        if sum(map(size, current)) >= BUCKET_BYTES:
            sections.append(current)
            current = []
    return [*sections, current] if current else sections
