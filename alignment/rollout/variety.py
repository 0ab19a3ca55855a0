"""How much responses repeat themselves, and how alike responses to different prompts are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class PairSets(NamedTuple):
    """The different pairs of adjacent tokens of each of N responses; one without pairs has its token for one."""

    counts: np.ndarray
    """[N] pairs of each response, equal ones too."""
    sizes: np.ndarray
    """[N] different ones."""
    keys: np.ndarray
    """[K] sorted: the number of a response times ``num_codes``, plus that of one of its pairs."""
    num_codes: int

    @classmethod
    def of(cls, responses: Sequence[np.ndarray]) -> PairSets:
        """Collect the pairs of ``responses``."""
        lengths = np.array([len(response) for response in responses])
        ids, rows = np.concatenate(responses).astype(np.int64), np.repeat(np.arange(len(lengths)), lengths)
        is_pair = rows[1:] == rows[:-1]
        lone = np.flatnonzero(lengths == 1)
        codes = np.concatenate([(ids[:-1] << 32 | ids[1:])[is_pair], -1 - ids[np.cumsum(lengths)[lone] - 1]])
        values, numbers = np.unique(codes, return_inverse=True)
        keys = np.sort(np.concatenate([rows[1:][is_pair], lone]) * len(values) + numbers)
        keys = keys[np.diff(keys, prepend=-1) > 0]
        sizes = np.bincount(keys // max(len(values), 1), minlength=len(lengths))
        return cls(np.maximum(lengths - 1, 0), sizes, keys, len(values))

    def repetition(self) -> float:
        """Return the share of a response's pairs that it has already had, 0 without pairs: the mean over responses."""
        has_pairs = self.counts > 0
        return float(np.mean(np.where(has_pairs, 1 - self.sizes / np.maximum(self.counts, 1), 0.0)))

    def overlap(self, group_ids: np.ndarray) -> float | None:
        """Return the mean Jaccard index of the pairs of each response and of one to the next prompt.

        0: they share nothing; 1: the policy gives one answer to all prompts. ``group_ids`` [N] are equal for responses
        to one prompt, which are adjacent. None if there is one prompt only.
        """
        starts = np.flatnonzero(np.diff(group_ids, prepend=group_ids[0] - 1))
        if len(starts) < 2:
            return None
        sizes = np.diff(starts, append=len(group_ids))
        own = np.repeat(np.arange(len(starts)), sizes)
        after = (own + 1) % len(starts)
        others = starts[after] + (np.arange(len(own)) - starts[own]) % sizes[after]
        rows, codes = np.divmod(self.keys, self.num_codes)
        wanted = others[rows] * self.num_codes + codes
        found = self.keys[np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)]
        shared = np.bincount(rows[found == wanted], minlength=len(own))
        return float(np.mean(shared / (self.sizes + self.sizes[others] - shared)))
