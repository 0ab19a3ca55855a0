"""Pairs of a better and a worse answer, for reward models and offline preference objectives."""

from __future__ import annotations

from typing import ClassVar

from alignment.data.encode import Encoder
from alignment.data.encoded.mixture import Row
from alignment.data.encoded.pairs import EncodedPair, PairCollator, encode_pair
from alignment.data.encoded.tokenized import Encoded, TokenizedDataset
from alignment.data.ledger import TIED_PAIR
from alignment.data.raw.raw_sample import require_fields
from alignment.errors import DataError


class PreferenceCollator(PairCollator):
    """Pads the ``better`` and the ``worse`` side; see ``PairCollator`` for the keys."""

    SIDES = ("better", "worse")


class PreferenceDataset(TokenizedDataset):
    """Samples ``{"better_input_ids" [S1], "worse_input_ids" [S2], "prompt_length" int}``.

    Reads ``input, answer, other_answer, better``; ``better=None`` is a tie, and the row is dropped.
    """

    KIND = "preference"
    COLLATOR = PreferenceCollator
    FIELDS: ClassVar[tuple[str, ...]] = ("input", "answer", "other_answer", "better")
    """The fields of a raw sample that every row needs."""

    def encode_row(self, row: Row, encoder: Encoder) -> Encoded:
        """Encode one pair, the better answer first."""
        require_fields(row.sample, self.FIELDS, kind=self.KIND, place=row.place)
        if row.sample["better"] is None:
            return Encoded(None, (TIED_PAIR,))
        pair = encode_pair(row, encoder, self.options)
        if not isinstance(pair, EncodedPair):
            return Encoded(None, pair)
        better, worse = (pair.first, pair.second) if row.sample["better"] else (pair.second, pair.first)
        sample = {"better_input_ids": better, "worse_input_ids": worse, "prompt_length": pair.prompt_length}
        return Encoded(sample, pair.reasons)


class MarginPreferenceDataset(PreferenceDataset):
    """Like ``PreferenceDataset``, with ``margin`` (float): by how much the better answer is better."""

    KIND = "preference with margins"
    FIELDS = (*PreferenceDataset.FIELDS, "margin")

    def encode_row(self, row: Row, encoder: Encoder) -> Encoded:
        """Encode one pair with its margin."""
        encoded = super().encode_row(row, encoder)
        if encoded.sample is None:
            return encoded
        return encoded._replace(sample={**encoded.sample, "margin": row.sample["margin"]})


class LogMarginPreferenceDataset(MarginPreferenceDataset):
    """Like ``MarginPreferenceDataset`` for losses that take the logarithm: no ``margin`` is negative."""

    KIND = "preference with margins of 0 or more"

    def encode_row(self, row: Row, encoder: Encoder) -> Encoded:
        """Encode one pair with its margin; a negative one is a DataError."""
        encoded = super().encode_row(row, encoder)
        if encoded.sample is not None and encoded.sample["margin"] < 0:
            raise DataError(f"{row.place}: margin is {encoded.sample['margin']:g}, but offset_alpha needs 0 or more")
        return encoded
