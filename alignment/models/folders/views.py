"""Tensors of files seen in another way: renamed, turned, cut or joined. Nothing is read before it is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from alignment.models.safetensors_io import Stored


class StoredTensor(Protocol):
    """One tensor of a model folder that can be read in pieces."""

    @property
    def name(self) -> str:
        """What the folder calls it."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Its size along every axis."""
        ...

    @property
    def code(self) -> str:
        """The file's word for its dtype."""
        ...

    @property
    def is_float(self) -> bool:
        """True for what a weight can be."""
        ...

    def read(self, slices: tuple[slice, ...] = ()) -> Stored:
        """Return the tensor, or the rectangle that ``slices`` (one for each axis, with start and stop) cut out."""
        ...


@dataclass(frozen=True)
class View:
    """Another tensor as it is; the base of those that change something about it."""

    tensor: StoredTensor

    @property
    def name(self) -> str:
        """That of the tensor."""
        return self.tensor.name

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the tensor."""
        return self.tensor.shape

    @property
    def code(self) -> str:
        """That of the tensor."""
        return self.tensor.code

    @property
    def is_float(self) -> bool:
        """That of the tensor."""
        return self.tensor.is_float

    def read(self, slices: tuple[slice, ...] = ()) -> Stored:
        """Return what the tensor returns."""
        return self.tensor.read(slices)


@dataclass(frozen=True)
class Renamed(View):
    """A tensor under another name."""

    new_name: str

    @property
    def name(self) -> str:
        """The new name."""
        return self.new_name


class Turned(View):
    """A tensor with its axes in the opposite order: a matrix transposed."""

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the tensor, backwards."""
        return self.tensor.shape[::-1]

    def read(self, slices: tuple[slice, ...] = ()) -> Stored:
        """Return a view of what the tensor returns."""
        stored = self.tensor.read(slices[::-1])
        return stored._replace(array=stored.array.T)


@dataclass(frozen=True)
class Cut(View):
    """The slice ``start`` to ``stop`` of a tensor along its last axis."""

    start: int
    stop: int

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the slice."""
        return (*self.tensor.shape[:-1], self.stop - self.start)

    def read(self, slices: tuple[slice, ...] = ()) -> Stored:
        """Return the slice, or a rectangle of it."""
        *others, last = slices or whole_slices(self.shape)
        return self.tensor.read((*others, slice(self.start + last.start, self.start + last.stop)))


@dataclass(frozen=True)
class Reshaped(View):
    """A tensor in another shape of as many numbers; it is read whole, whatever of it is wanted."""

    new_shape: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """The new shape."""
        return self.new_shape

    def read(self, slices: tuple[slice, ...] = ()) -> Stored:
        """Return the tensor, or a rectangle of it."""
        stored = self.tensor.read()
        return stored._replace(array=stored.array.reshape(self.new_shape)[slices])


@dataclass(frozen=True)
class Joined(View):
    """``tensor`` and ``others`` side by side along ``axis``, under the name of the first; read in pieces."""

    others: tuple[StoredTensor, ...]
    axis: int

    @classmethod
    def of(cls, tensors: Sequence[StoredTensor], axis: int) -> Joined:
        """Return ``tensors`` (at least one) side by side."""
        return cls(tensors[0], tuple(tensors[1:]), axis)

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the whole."""
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
        """Yield what of each tensor lies in the rectangle ``wanted``; of an empty one nothing of the first."""
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
    """Return the slices that cut out everything."""
    return tuple(slice(0, size) for size in shape)
