"""Pairs of answers of which one is better, for reward models and offline preference objectives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from alignment.data.encode import Encoder
from alignment.data.encoded.mixture import Row
from alignment.data.encoded.pairs import EncodedPair, encode_pair, pad_pairs
from alignment.data.encoded.tokenized import Encoded, Sample, TokenizedDataset, to_ids
from alignment.data.ledger import TIED_PAIR
from alignment.data.padding import row_lengths
from alignment.data.raw.raw_sample import require_fields
from alignment.data.tokenizer import TokenizerLike, padding_id


class PreferenceDataset(TokenizedDataset):
    """Samples ``{"better_input_ids" [S1], "worse_input_ids" [S2], "prompt_length" int}``.

    Reads ``input, answer, other_answer, better``; ``better=None`` is a tie and the row is not used.
    """

    KIND = "preference"

    def encode_row(self, row: Row, encoder: Encoder) -> Encoded:
        """Encode one pair, the better answer first."""
        require_fields(row.sample, ("input", "answer", "other_answer", "better"), kind=self.KIND, place=row.place)
        if row.sample["better"] is None:
            return Encoded(None, (TIED_PAIR,))
        pair = encode_pair(row, encoder, self.options)
        if not isinstance(pair, EncodedPair):
            return Encoded(None, pair)
        better, worse = (pair.first, pair.second) if row.sample["better"] else (pair.second, pair.first)
        sample = {"better_input_ids": better, "worse_input_ids": worse, "prompt_length": pair.prompt_length}
        return Encoded(sample, pair.reasons)

    def make_collator(self, tokenizer: TokenizerLike) -> PreferenceCollator:
        """Return the collator that pads both sides together."""
        return PreferenceCollator(padding_id(tokenizer))


class PreferenceCollator:
    """Pads on the right, both sides to one width.

    Gives ``better_`` and ``worse_`` ``input_ids`` and ``attention_mask`` [B, S] (True: real token) and ``lengths`` [B],
    and ``prompt_lengths`` [B].
    """

    def __init__(self, pad_token_id: int) -> None:
        self._pad_token_id = pad_token_id

    def __call__(self, samples: Sequence[Sample]) -> dict[str, Any]:
        better = [sample["better_input_ids"] for sample in samples]
        worse = [sample["worse_input_ids"] for sample in samples]
        return {
            **pad_pairs(better, worse, names=("better", "worse"), pad_token_id=self._pad_token_id),
            "better_lengths": row_lengths(better),
            "worse_lengths": row_lengths(worse),
            "prompt_lengths": to_ids([sample["prompt_length"] for sample in samples]),
        }
