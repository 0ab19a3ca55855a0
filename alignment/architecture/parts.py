"""Rectangular parts of named tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

Box = tuple[tuple[int, int], ...]
"""(start, stop) along every axis."""


class Part(NamedTuple):
    """A rectangle of one tensor of the whole model."""

    name: str
    """The parameter's Hugging Face name."""
    shape: tuple[int, ...]
    """Shape of the whole tensor."""
    box: Box

    @classmethod
    def whole(cls, name: str, shape: Sequence[int]) -> Part:
        """Return the whole tensor as one part."""
        return cls(name, tuple(shape), tuple((0, size) for size in shape))

    @property
    def extent(self) -> tuple[int, ...]:
        """The shape of the part itself."""
        return tuple(stop - start for start, stop in self.box)

    @property
    def size(self) -> int:
        """Its number of elements."""
        return math.prod(self.extent)

    @property
    def is_whole(self) -> bool:
        return self.extent == self.shape

    @property
    def slices(self) -> tuple[slice, ...]:
        """The slices of the whole tensor that give the part."""
        return tuple(slice(start, stop) for start, stop in self.box)

    def along(self, axis: int, start: int, stop: int) -> Part:
        """Return the sub-part from ``start`` to ``stop`` along ``axis``, relative to this part."""
        first = self.box[axis][0]
        inner = (first + start, first + stop)
        return self._replace(box=(*self.box[:axis], inner, *self.box[axis + 1 :]))


def overlap(one: Box, other: Box) -> Box | None:
    """Return the intersection of two boxes, or None."""
    shared = tuple((max(a, c), min(b, d)) for (a, b), (c, d) in zip(one, other, strict=True))
    return shared if all(start < stop for start, stop in shared) else None


def inside(box: Box, outer: Box) -> tuple[slice, ...]:
    """Return the slices that select ``box`` from a tensor that holds ``outer``."""
    return tuple(slice(a - c, b - c) for (a, b), (c, _) in zip(box, outer, strict=True))


def even_cut(size: int, pieces: int, index: int) -> tuple[int, int]:
    """Return (start, stop) of piece ``index`` of ``size`` split into ``pieces``; the first ones are one longer."""
    short, longer = divmod(size, pieces)
    start = index * short + min(index, longer)
    return start, start + short + (index < longer)
