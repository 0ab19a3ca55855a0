"""A run of rows, encoded: the unit that processes hand each other."""

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
"""The last one without references: equal values give equal bytes, whoever else holds them."""


_PLAIN = frozenset((str, bool, int, float, type(None)))


class Encoded(NamedTuple):
    """What became of one row."""

    sample: Sample | None
    """None: the row is not used."""
    reasons: tuple[str, ...] = ()
    """Ledger reasons: why it is not used, or what was changed."""
    detail: str = ""
    """What is wrong with it and where, if there is more to say than the reason."""


class Chunk(NamedTuple):
    """What became of several rows."""

    store: Store
    """The samples of the rows that are used."""
    used: np.ndarray
    """[n] bool, True: the row has a sample."""
    reasons: dict[int, tuple[str, ...]]
    """Ledger reasons of the rows that have any."""
    failed_at: int | None = None
    """The row that stopped the work with an error; nothing is known of those behind it."""


def encode_chunk(encode: Callable[[Row], Encoded], rows: Sequence[Row]) -> Chunk:
    """Return what ``encode`` makes of ``rows``, up to the first one that stops with a user's error."""
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
    """Return bytes that are equal for equal rows in equal places, whatever file they come from."""
    plain = [(row.position, row.dataset, row.index, row.sample, _fault(row)) for row in rows]
    if all(_is_plain(row.sample) for row in rows):
        return b"m" + marshal.dumps(plain, _MARSHAL_VERSION)
    return b"p" + pickle.dumps(plain, protocol=4)


def unpack_rows(packed: bytes) -> list[Row]:
    """Return the rows of ``pack_rows``, without their places; only what this machine's own processes sent is read."""
    plain = (marshal.loads if packed[:1] == b"m" else pickle.loads)(packed[1:])
    return [
        Row(position, dataset, index, "", sample, fault and BadRow(*fault))
        for position, dataset, index, sample, fault in plain
    ]


def _is_plain(value: Any) -> bool:
    """Tell whether ``marshal`` gives ``value`` back: it takes numbers of NumPy, in a message say, and returns bytes."""
    kind = type(value)
    if kind is dict:
        return all(map(_is_plain, value)) and all(map(_is_plain, value.values()))
    return all(map(_is_plain, value)) if kind in (list, tuple) else kind in _PLAIN


def _fault(row: Row) -> tuple[str, str] | None:
    return None if row.fault is None else (row.fault.reason, str(row.fault))
