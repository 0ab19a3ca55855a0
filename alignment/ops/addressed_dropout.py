"""Dropout whose masks depend on what is dropped, not on the order of draws: on a token, a column and the update.

So they are the same in every layout, in every micro-batch, when activations are recomputed, and after a resume.
"""

from __future__ import annotations

import hashlib

import numpy as np
import paddle

_FULL, _HALF = 1 << 32, 1 << 16
_MULTIPLIER = 0x45D9F3B
"""Small enough that products with 32-bit words fit into a signed 64-bit number."""


def token_keys(ids: np.ndarray, lengths: np.ndarray, *, seed: int, update: int) -> np.ndarray:
    """Return a 32-bit key [M] int64 of every real token of right-padded rows ``ids`` [n, S].

    It depends on the content of the row, the token's position in it, ``seed`` and ``update``.
    """
    salt = f"{seed} {update}".encode()
    keys = []
    for row, length in zip(ids, lengths, strict=True):
        content = np.ascontiguousarray(row[:length], np.int64).tobytes()
        digest = hashlib.blake2b(content, digest_size=4, key=hashlib.blake2b(salt, digest_size=16).digest()).digest()
        keys.append(_mix(np.arange(length, dtype=np.int64) ^ int.from_bytes(digest, "big")))
    return np.concatenate(keys)


def dropout(x: paddle.Tensor, keys: paddle.Tensor, *, stream: int, first_column: int, rate: float) -> paddle.Tensor:
    """Return x [M, C] with each number zero with probability ``rate`` and otherwise divided by 1 - ``rate``.

    ``keys`` [M] int64 come from ``token_keys``; ``stream`` (below 2^31) tells apart the layers that drop from the same
    tokens; ``first_column`` is the number of the first column of x in the unsplit array.
    """
    columns = _mix(np.arange(first_column, first_column + x.shape[1], dtype=np.int64) ^ stream)
    words = _mix(keys.unsqueeze(-1) ^ paddle.to_tensor(columns).unsqueeze(0))
    kept = words >= round(rate * _FULL)
    return x * (kept.astype(x.dtype) / (1 - rate))


def _mix(words: np.ndarray | paddle.Tensor) -> np.ndarray | paddle.Tensor:
    """Return the 32-bit ``words`` (int64), scrambled so that every bit of the result depends on every given bit."""
    for _ in range(2):
        words = ((words // _HALF) ^ words) * _MULTIPLIER % _FULL
    return (words // _HALF) ^ words
