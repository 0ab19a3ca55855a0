"""Find which part of a text each token covers, using only the vocabulary of a byte-level tokenizer.

The library's own offsets cover every character, which takes a third of the encoding time.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate

_UNKNOWN = 1 << 30
"""The length of a token whose bytes are unknown: longer than any text."""


class TokenBytes:
    """The bytes of every token."""

    def __init__(self, vocab: Mapping[str, int], added: Mapping[int, str], *, keeps: str = "nothing") -> None:
        """``vocab`` is in the byte alphabet; ``added`` maps ids to tokens that stand for their own text.

        ``keeps`` says which texts the tokenizer never changes before splitting: ``all``, ``ascii`` or ``nothing``. For
        those, comparing lengths proves that the tokens spell the whole text: nothing is ever added to it.
        """
        alphabet = byte_alphabet()
        known = {
            number: bytes(map(alphabet.__getitem__, token))
            for token, number in vocab.items()
            if alphabet.keys() >= set(token)
        } | {number: text.encode() for number, text in added.items()}
        self._keeps = keeps
        self._bytes = [known.get(number) for number in range(max(known, default=-1) + 1)]
        self._lengths = array("L", [_UNKNOWN if token is None else len(token) for token in self._bytes])

    def count_before(self, ids: Sequence[int], text: str, cuts: Iterable[int]) -> list[int | None] | None:
        """Return the number of tokens before each of ``cuts`` (character positions), None if a token spans it.

        Return None instead of a list if the tokens do not spell ``text``.
        """
        written = text.encode()
        try:
            ends = list(accumulate(map(self._lengths.__getitem__, ids)))
        except IndexError:
            return None
        is_ascii = len(written) == len(text)
        if not ends or ends[-1] != len(written):
            return None
        is_kept = self._keeps == "all" or (is_ascii and self._keeps == "ascii")
        if not is_kept and b"".join(map(self._bytes.__getitem__, ids)) != written:
            return None
        counts: list[int | None] = []
        for cut in cuts:
            end = cut if is_ascii else len(text[:cut].encode())
            number = bisect_left(ends, end)
            counts.append(number + 1 if ends[number] == end else None)
        return counts


def byte_alphabet() -> dict[str, int]:
    """Return the byte for each character of byte-level vocabularies; printable bytes are their own character."""
    printed = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = [byte for byte in range(256) if byte not in printed]
    return {chr(byte): byte for byte in printed} | {chr(256 + place): byte for place, byte in enumerate(others)}
