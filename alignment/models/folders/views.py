"""Lazy views of stored tensors: renamed, transposed, sliced, reshaped or joined; only ``read`` reads the file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from alignment.models.safetensors_io import Stored


class StoredTensor(Protocol):
    """One tensor of a model folder that can be read in pieces."""

    @property
    def name(self) -> str:
        """Its name in the folder."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Its size along every axis."""
        ...

    @property
    def code(self) -> str:
        """The file's name for its dtype."""
        ...

    @property
    def is_float(self) -> bool:
        """Whether the dtype is floating point."""
        ...

    def read(self, slices: tuple[slice, ...] = ()) -> Stored:
        """Return the tensor, or the rectangle cut out by ``slices`` (one per axis, with start and stop)."""
        ...


@dataclass(frozen=True)
class View:
    """Base class of views: what a subclass does not change comes from ``tensor``."""

    tensor: StoredTensor

    def __getattr__(self, name: str) -> Any:
        if name == "tensor" or name.startswith("__"):  # asked for while a copy is made, before the fields exist
            raise AttributeError(name)
        return getattr(self.tensor, name)


@dataclass(frozen=True)
class Renamed(View):
    """A tensor under another name."""

    name: str


class Transposed(View):
    """A tensor with its axes in reverse order."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The tensor's shape, reversed."""
        return self.tensor.shape[::-1]

    def read(self, slices: tuple[slice, ...] = ()) -> Stored:
        """Return the tensor, or a rectangle of it, as a numpy view."""
        stored = self.tensor.read(slices[::-1])
        return stored._replace(array=stored.array.T)


@dataclass(frozen=True)
class Cut(View):
    """The slice ``start`` to ``stop`` of a tensor along its last axis."""

    start: int
    stop: int

    @property
    def shape(self) -> tuple[int, ...]:
        """The slice's shape."""
        return (*self.tensor.shape[:-1], self.stop - self.start)

    def read(self, slices: tuple[slice, ...] = ()) -> Stored:
        """Return the slice, or a rectangle of it."""
        *others, last = slices or whole_slices(self.shape)
        return self.tensor.read((*others, slice(self.start + last.start, self.start + last.stop)))


@dataclass(frozen=True)
class Reshaped(View):
    """A tensor in another shape of the same size; always read whole."""

    shape: tuple[int, ...]

    def read(self, slices: tuple[slice, ...] = ()) -> Stored:
        """Return the tensor, or a rectangle of it."""
        stored = self.tensor.read()
        return stored._replace(array=stored.array.reshape(self.shape)[slices])


@dataclass(frozen=True)
class Joined(View):
    """``tensor`` and ``others`` concatenated along ``axis``, under the name of the first; read in pieces."""

    others: tuple[StoredTensor, ...]
    axis: int

    @classmethod
    def of(cls, tensors: Sequence[StoredTensor], axis: int) -> Joined:
        """Return the concatenation of ``tensors`` (at least one)."""
        return cls(tensors[0], tuple(tensors[1:]), axis)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the whole."""
        shape = list(self.tensor.shape)
        shape[self.axis] = sum(tensor.shape[self.axis] for tensor in (self.tensor, *self.others))
        return tuple(shape)

    def read(self, slices: tuple[slice, ...] = ()) -> Stored:
        """Return the whole, or a rectangle of it."""
        pieces = list(self._read_pieces(list(slices or whole_slices(self.shape))))
        if len({(piece.array.dtype, piece.is_bfloat16) for piece in pieces}) == 1:
            array = np.concatenate([piece.array for piece in pieces], axis=self.axis)
            return pieces[0]._replace(array=array)
        return Stored(self.name, np.concatenate([piece.as_float32() for piece in pieces], axis=self.axis), False)

    def _read_pieces(self, wanted: list[slice]) -> Iterator[Stored]:
        """Yield the overlap of each tensor with the rectangle ``wanted``; for an empty one, nothing of the first."""
        first, last = wanted[self.axis].start, wanted[self.axis].stop
        position = 0
        for tensor in (self.tensor, *self.others):
            size = tensor.shape[self.axis]
            start, stop = max(first - position, 0), min(last - position, size)
            if start < stop or (first == last and position == 0):
                wanted[self.axis] = slice(start, max(start, stop))
                yield tensor.read(tuple(wanted))
            position += size


def whole_slices(shape: Sequence[int]) -> tuple[slice, ...]:
    """Return the slices that select everything."""
    return tuple(slice(0, size) for size in shape)
