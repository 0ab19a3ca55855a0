"""Chunks of encoded rows, which worker processes send back."""

from __future__ import annotations

import marshal
import pickle
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from alignment.data.encoded.mixture import Row
from alignment.data.encoded.store import Sample, Store
from alignment.data.ledger import BadRow
from alignment.errors import UserError

_MARSHAL_VERSION = 2
"""The last version without references: equal values always give equal bytes."""
_PLAIN = frozenset((str, bool, int, float, type(None)))


class Encoded(NamedTuple):
    """The outcome of one row."""

    sample: Sample | None
    """None: the row is dropped."""
    reasons: tuple[str, ...] = ()
    """Ledger reasons: why it is dropped, or what was changed."""
    detail: str = ""
    """A message with more detail than the reason, or empty."""


class Chunk(NamedTuple):
    """The outcome of several rows."""

    store: Store
    """Samples of the rows that are used."""
    used: np.ndarray
    """[n] bool, True: the row has a sample."""
    reasons: dict[int, tuple[str, ...]]
    """Ledger reasons of the rows that have any."""
    failed_at: int | None = None
    """Index of the row that raised an error; the rows after it were not encoded."""


def encode_chunk(encode: Callable[[Row], Encoded], rows: Sequence[Row]) -> Chunk:
    """Encode ``rows`` up to the first one that raises a UserError."""
    samples, reasons, used, failed_at = [], {}, np.zeros(len(rows), bool), None
    for number, row in enumerate(rows):
        try:
            encoded = encode(row)
        except UserError:
            failed_at = number
            break
        if encoded.reasons:
            reasons[number] = encoded.reasons
        if encoded.sample is not None:
            samples.append(encoded.sample)
            used[number] = True
    return Chunk(Store.pack(samples), used, reasons, failed_at)


def pack_rows(rows: Sequence[Row]) -> bytes:
    """Serialise rows; equal rows in equal positions give equal bytes, whatever file they come from."""
    plain = [(row.position, row.dataset, row.index, row.sample, _fault(row)) for row in rows]
    if all(_is_plain(row.sample) for row in rows):
        return b"m" + marshal.dumps(plain, _MARSHAL_VERSION)
    return b"p" + pickle.dumps(plain, protocol=4)


def unpack_rows(packed: bytes) -> list[Row]:
    """Return the rows given to ``pack_rows``, without their places; trusted input only."""
    plain = (marshal.loads if packed[:1] == b"m" else pickle.loads)(packed[1:])
    return [
        Row(position, dataset, index, "", sample, fault and BadRow(*fault))
        for position, dataset, index, sample, fault in plain
    ]


def _is_plain(value: Any) -> bool:
    """Tell whether ``marshal`` returns ``value`` unchanged (it silently turns NumPy numbers into bytes)."""
    kind = type(value)
    if kind is dict:
        return all(map(_is_plain, value)) and all(map(_is_plain, value.values()))
    return all(map(_is_plain, value)) if kind in (list, tuple) else kind in _PLAIN


def _fault(row: Row) -> tuple[str, str] | None:
    return None if row.fault is None else (row.fault.reason, str(row.fault))
