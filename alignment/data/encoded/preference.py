"""Pairs of a better and a worse answer, and single answers labelled good or bad, for reward models and policies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from alignment.data.encode import Encoder
from alignment.data.encoded.mixture import Row
from alignment.data.encoded.pairs import EncodedAnswers, EncodedPair, PairCollator, encode_answers, encode_pair
from alignment.data.encoded.tokenized import Collator, Encoded, Sample, TokenizedDataset, to_ids
from alignment.data.ledger import IDENTICAL_PAIR, TIED_PAIR
from alignment.data.padding import mask_rows, pad_rows, row_lengths
from alignment.data.raw.raw_sample import require_fields
from alignment.errors import DataError
from alignment.records import RawSample


class PreferenceCollator(PairCollator):
    """Pads the ``better`` and the ``worse`` side; see ``PairCollator`` for the keys."""

    SIDES = ("better", "worse")


class PreferenceDataset(TokenizedDataset):
    """Samples ``{"better_input_ids" [S1], "worse_input_ids" [S2], "prompt_length" int}``.

    Reads ``input, answer, other_answer, better``; ``better=None`` is a tie, and the row is dropped.
    """

    KIND = "preference"
    COMPARES_ANSWERS = True
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


class UnpairedPreferenceCollator(Collator):
    """Pads on the right.

    Gives ``input_ids`` and ``attention_mask`` [B, S] (True: real token), ``lengths`` and ``prompt_lengths`` [B], and
    ``desirable`` [B] (True: a good answer).
    """

    def __call__(self, samples: Sequence[Sample]) -> dict[str, Any]:
        rows = [sample["input_ids"] for sample in samples]
        return {
            "input_ids": pad_rows(rows, value=self._pad_token_id),
            "attention_mask": mask_rows(rows),
            "lengths": row_lengths(rows),
            "prompt_lengths": to_ids([sample["prompt_length"] for sample in samples]),
            "desirable": np.array([sample["desirable"] for sample in samples], bool),
        }


class UnpairedPreferenceDataset(TokenizedDataset):
    """Samples ``{"input_ids" [S], "prompt_length" int, "desirable" 1 (a good answer) or 0}``.

    Reads ``input, answer, desirable``. A pair (``input, answer, other_answer, better``) becomes two samples, its better
    answer with label 1 and the other with label 0; ties and equal answers are dropped.
    """

    KIND = "binary preference"
    COMPARES_ANSWERS = True
    COLLATOR = UnpairedPreferenceCollator

    def split_row(self, row: Row) -> Sequence[Row]:
        """Return a row for each answer of a pair, the better one first."""
        pair = row.sample
        if not _is_pair(pair) or _fault_of(pair):
            return (row,)
        answers = (pair["answer"], pair["other_answer"])
        better, worse = answers if pair["better"] else answers[::-1]
        shared = {name: pair[name] for name in ("input", "tools") if name in pair}
        return [
            row._replace(sample=RawSample(**shared, answer=answer, desirable=liked), part=part)
            for part, (answer, liked) in enumerate(((better, True), (worse, False)))
        ]

    def encode_row(self, row: Row, encoder: Encoder) -> Encoded:
        """Encode one answer; a pair that could not be split is dropped."""
        if _is_pair(row.sample):
            return Encoded(None, (_why_whole(row),))
        require_fields(row.sample, ("input", "answer", "desirable"), kind=self.KIND, place=row.place)
        encoded = encode_answers(row, (row.sample["answer"],), encoder, self.options)
        if not isinstance(encoded, EncodedAnswers):
            return Encoded(None, encoded)
        (ids,) = encoded.sequences()
        liked = int(row.sample["desirable"])
        sample = {"input_ids": ids, "prompt_length": len(encoded.fitted.prompt), "desirable": liked}
        return Encoded(sample, encoded.reasons)


def _is_pair(sample: RawSample) -> bool:
    return sample.get("answer") is not None and sample.get("other_answer") is not None


def _fault_of(pair: RawSample) -> str | None:
    """Return why a pair is not split into two answers; None if it is."""
    if pair.get("desirable") is not None or not {"input", "better"} <= pair.keys():
        return "unclear"
    if pair["better"] is None:
        return TIED_PAIR
    return IDENTICAL_PAIR if pair["answer"].split() == pair["other_answer"].split() else None


def _why_whole(row: Row) -> str:
    """Return the ledger's reason why a pair was not split; a pair that says too much or too little is a DataError."""
    if row.sample.get("desirable") is not None:
        raise DataError(f"{row.place}: 'desirable' labels one answer, but there are 'answer' and 'other_answer'")
    require_fields(row.sample, ("input", "better"), kind=UnpairedPreferenceDataset.KIND, place=row.place)
    reason = _fault_of(row.sample)
    assert reason is not None
    return reason
