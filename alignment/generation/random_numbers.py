"""Random numbers addressed by (seed, sequence, position): Philox4x32-10 (Salmon et al. 2011, "as easy as 1, 2, 3").

A number does not depend on earlier draws, so neither batching nor a restart changes a sample.
"""

from __future__ import annotations

import numpy as np

_MULTIPLIERS = np.array([0xD2511F53, 0xCD9E8D57], np.uint64)
_KEY_STEPS = np.array([0x9E3779B9, 0xBB67AE85], np.uint64)
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_ROUNDS = 10


def philox(counters: np.ndarray, key: tuple[int, int]) -> np.ndarray:
    """Return four 32-bit words for each of ``counters`` [..., 4]; both are uint64 below 2^32."""
    c0, c1, c2, c3 = (counters[..., i].astype(np.uint64) for i in range(4))
    k0, k1 = np.uint64(key[0]), np.uint64(key[1])
    for _ in range(_ROUNDS):
        left, right = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1 = (right >> _HALF) ^ c1 ^ k0, right & _LOW
        c2, c3 = (left >> _HALF) ^ c3 ^ k1, left & _LOW
        k0, k1 = (k0 + _KEY_STEPS[0]) & _LOW, (k1 + _KEY_STEPS[1]) & _LOW
    return np.stack([c0, c1, c2, c3], axis=-1)


def uniform(seed: int, sequence_ids: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Return float64 numbers in [0, 1) with 53 random bits; ``sequence_ids`` and ``positions`` are broadcast.

    ``seed`` and sequence ids are taken modulo 2^64, positions modulo 2^32.
    """
    ids, places = np.broadcast_arrays(sequence_ids, positions)
    ids, places = ids.astype(np.uint64), places.astype(np.uint64)
    counters = np.stack([places & _LOW, np.zeros_like(ids), ids & _LOW, ids >> _HALF], axis=-1)
    words = philox(counters, (seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF))
    high, low = words[..., 0] >> np.uint64(5), words[..., 1] >> np.uint64(6)
    return (high.astype(np.float64) * 67108864.0 + low.astype(np.float64)) / 9007199254740992.0
