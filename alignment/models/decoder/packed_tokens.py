"""The token ids of a batch packed for the layers, and their hidden states unpacked again."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import paddle

from alignment.models.decoder.forest import Forest


@dataclass(frozen=True, slots=True)
class PackedTokens:
    """Right-padded rows of token ids, and how they are packed."""

    ids: np.ndarray
    """[n, S]"""
    lengths: np.ndarray
    """[n]"""
    forest: Forest
    """How they are packed."""
    positions: np.ndarray
    """[M] the rotary position of each packed token."""

    def in_rows_beyond(self, limit: int | None) -> np.ndarray | None:
        """Return [M] bool: whether a token's row has more than ``limit`` positions; None if none has."""
        if limit is None or self.positions.max(initial=0) < limit:
            return None
        own = self.forest.lengths - (0 if self.forest.shared is None else self.forest.shared)
        rows = np.repeat(np.arange(len(own)), own)
        ends = np.zeros(len(own), np.int64)
        np.maximum.at(ends, rows, self.positions + 1)
        return (ends > limit)[rows]

    @property
    def packed(self) -> np.ndarray:
        """[M] token ids."""
        return self.ids.reshape(-1)[self.forest.cells]


def unpack(hidden: paddle.Tensor, tokens: PackedTokens) -> paddle.Tensor:
    """Return [n, S, H] with ``hidden`` [M, H] where ``tokens`` stand and zeros on padding."""
    shape, forest = [*tokens.ids.shape, hidden.shape[1]], tokens.forest
    if forest.num_tokens == tokens.ids.size:
        return hidden.reshape(shape)
    cells = forest.cells
    if forest.shared is not None:
        cells = np.flatnonzero(np.arange(shape[1]) < tokens.lengths[:, None])
        hidden = paddle.gather(hidden, paddle.to_tensor(forest.places.reshape(-1)[cells]))
    rows = paddle.to_tensor(cells).unsqueeze(-1)
    return paddle.scatter_nd(rows, hidden, [tokens.ids.size, shape[2]]).reshape(shape)
