"""The tokens whose final hidden states are read: the last layer computes nothing for the others.

Keys and values of the last layer are still those of all tokens. A token that is not read has no gradient there, so
leaving it out changes no sum.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import paddle

from alignment.models.decoder.forest import Forest
from alignment.ops.host_arrays import from_host
from alignment.ops.native.training_ops import QueryRanges


@dataclass(frozen=True, slots=True)
class WantedTokens:
    """T tokens that are read, of M packed ones; Q tokens are in the ranges that hold them."""

    ranges: QueryRanges
    """The range of each sequence from its first read token to its last."""
    queries: paddle.Tensor
    """[Q] int64, the rows of these ranges among the M."""
    rows: paddle.Tensor
    """[T] int64, the rows of the tokens that are read; one that is read several times stands here as often."""
    inner: paddle.Tensor | None
    """[T] int64, their places among the Q; None: all Q are read, in this order."""

    @classmethod
    def build(cls, forest: Forest, rows: np.ndarray, positions: np.ndarray) -> WantedTokens:
        """Build for the tokens at ``positions`` [T] of ``rows`` [T] of the batch that ``forest`` packs."""
        return _build_once(forest, forest.places[rows, positions].tobytes())

    @classmethod
    def at(cls, forest: Forest, places: np.ndarray) -> WantedTokens:
        """Build for the tokens at ``places`` [T] of ``forest``."""
        sequences, positions = forest.owners(places)
        end = np.zeros_like(forest.lengths) if forest.shared is None else forest.shared.copy()
        first = forest.lengths.copy()
        np.minimum.at(first, sequences, positions)
        np.maximum.at(end, sequences, positions + 1)
        first = np.minimum(first, end)
        query_starts = np.concatenate([[0], np.cumsum(end - first)])
        ranges = QueryRanges(first.astype(np.int32), query_starts.astype(np.int32))
        among = query_starts[sequences] + positions - first[sequences]
        is_all = np.array_equal(among, np.arange(query_starts[-1]))
        return cls(
            ranges,
            from_host(ranges.rows(forest.origins)),
            from_host(places),
            None if is_all else from_host(among),
        )

    def of_queries(self, x: paddle.Tensor) -> paddle.Tensor:
        """Return [T, H], those of x [Q, H] that are read."""
        return x if self.inner is None else paddle.gather(x, self.inner)


@lru_cache(maxsize=8)
def _build_once(forest: Forest, places: bytes) -> WantedTokens:
    """Return ``WantedTokens.at``; models that read the same rows want the same tokens of them."""
    return WantedTokens.at(forest, np.frombuffer(places, np.int64))
