"""Pack parameters into flat buffers [pieces, length], so that one message carries many; piece i is process i's.

Every tensor is split along its rows (``parts.even_cut``); pieces are zero-padded to equal length.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from math import prod

import paddle

from alignment.architecture.parts import even_cut
from alignment.parallel.sharding.message_cuts import cut_buckets


@dataclass(frozen=True, eq=False)
class RowBucket:
    """Tensors of one dtype that are sent together; all mappings are by tensor name."""

    shapes: Mapping[str, tuple[int, ...]]
    """The shapes of this process's tensors before they are split into rows."""
    pieces: int

    @cached_property
    def length(self) -> int:
        """Elements per piece, padding included."""
        return max(self._size(index) for index in range(self.pieces))

    def rows(self, name: str, index: int) -> tuple[int, int]:
        """Return (start, stop): the rows of ``name`` that process ``index`` holds."""
        return even_cut(self.shapes[name][0], self.pieces, index)

    def pack(self, tensors: Mapping[str, paddle.Tensor], dtype: str) -> paddle.Tensor:
        """Return the unsplit ``tensors`` as [pieces, length], with zeros for missing ones."""
        whole = {name: tensor.reshape(self.shapes[name]) for name, tensor in tensors.items()}
        parts = [part for index in range(self.pieces) for part in self._flat_piece(whole, index)]
        return _concat(parts, dtype).reshape([self.pieces, self.length])

    def pack_rows(self, rows: Mapping[str, paddle.Tensor], index: int, dtype: str) -> paddle.Tensor:
        """Return the ``rows`` of process ``index`` as its piece [length]."""
        parts = [rows[name].reshape([-1]) for name in self.shapes if name in rows]
        missing = self.length - sum(int(part.shape[0]) for part in parts)
        return _concat([*parts, *_zeros(missing)], dtype)

    def split(self, piece: paddle.Tensor, index: int) -> dict[str, paddle.Tensor]:
        """Return the rows in the ``piece`` [length] of process ``index``, without tensors of which it has no rows."""
        found, offset = {}, 0
        for name, shape in self.shapes.items():
            start, stop = self.rows(name, index)
            size = (stop - start) * prod(shape[1:])
            if size:
                found[name] = piece[offset : offset + size].reshape([stop - start, *shape[1:]])
            offset += size
        return found

    def join(self, pieces: Sequence[paddle.Tensor]) -> dict[str, paddle.Tensor]:
        """Return the unsplit tensors from the ``pieces`` of all processes."""
        split = [self.split(piece, index) for index, piece in enumerate(pieces)]
        return {name: paddle.concat([rows[name] for rows in split if name in rows]) for name in self.shapes}

    def _flat_piece(self, tensors: Mapping[str, paddle.Tensor], index: int) -> list[paddle.Tensor]:
        parts, missing = [], self.length
        for name, shape in self.shapes.items():
            start, stop = self.rows(name, index)
            size = (stop - start) * prod(shape[1:])
            if size:
                parts += [tensors[name][start:stop].reshape([-1])] if name in tensors else _zeros(size)
            missing -= size
        return [*parts, *_zeros(missing)]

    def _size(self, index: int) -> int:
        spans = ((self.rows(name, index), shape) for name, shape in self.shapes.items())
        return sum((stop - start) * prod(shape[1:]) for (start, stop), shape in spans)


def make_buckets(parameters: Mapping[str, paddle.Tensor], *, pieces: int, limit: int | None = None) -> list[RowBucket]:
    """Group ``parameters``, in order, into buckets of one dtype and about ``limit`` bytes (see ``cut_buckets``)."""
    for name, parameter in parameters.items():
        assert parameter.shape, f"{name} has no axis to split"
    return [
        RowBucket({name: tuple(parameter.shape) for name, parameter in bucket}, pieces)
        for _, same in groupby(parameters.items(), key=lambda item: item[1].dtype)
        for bucket in cut_buckets(same, lambda item: int(item[1].size) * item[1].element_size(), limit)
    ]


def _concat(parts: Iterable[paddle.Tensor], dtype: str) -> paddle.Tensor:
    return paddle.concat([part.astype(dtype) for part in parts])


def _zeros(size: int) -> list[paddle.Tensor]:
    return [paddle.zeros([size])] if size else []
