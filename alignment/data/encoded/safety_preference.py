"""Pairs of answers of which one is safer, with a safety label for each, for cost models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from alignment.data.encode import Encoder
from alignment.data.encoded.mixture import Row
from alignment.data.encoded.pairs import EncodedPair, encode_pair, pad_pairs
from alignment.data.encoded.tokenized import Encoded, Sample, TokenizedDataset, to_ids
from alignment.data.ledger import CONTRADICTORY_SAFETY
from alignment.data.padding import row_lengths
from alignment.data.raw.raw_sample import require_fields
from alignment.data.tokenizer import TokenizerLike, padding_id

_FIELDS = ("input", "answer", "other_answer", "safer", "is_safe", "is_other_safe")


class SafetyPreferenceDataset(TokenizedDataset):
    """Gives ``{"safer_input_ids", "unsafer_input_ids", "safer_safety_sign", "unsafer_safety_sign", "prompt_length"}``.

    A sign is +1 for a safe answer and -1 for an unsafe one. Reads ``input, answer, other_answer, safer, is_safe,
    is_other_safe``; a row whose safer answer is unsafe while the other is safe contradicts itself and is not used.
    """

    KIND = "safety preference"

    def encode_row(self, row: Row, encoder: Encoder) -> Encoded:
        """Encode one pair, the safer answer first."""
        require_fields(row.sample, _FIELDS, kind=self.KIND, place=row.place)
        flags = (row.sample["is_safe"], row.sample["is_other_safe"])
        safer_safe, unsafer_safe = flags if row.sample["safer"] else flags[::-1]
        if unsafer_safe and not safer_safe:
            return Encoded(None, (CONTRADICTORY_SAFETY,))
        pair = encode_pair(row, encoder, self.options)
        if not isinstance(pair, EncodedPair):
            return Encoded(None, pair)
        safer, unsafer = (pair.first, pair.second) if row.sample["safer"] else (pair.second, pair.first)
        sample = {
            "safer_input_ids": safer,
            "unsafer_input_ids": unsafer,
            "safer_safety_sign": 1 if safer_safe else -1,
            "unsafer_safety_sign": 1 if unsafer_safe else -1,
            "prompt_length": pair.prompt_length,
        }
        return Encoded(sample, pair.reasons)

    def make_collator(self, tokenizer: TokenizerLike) -> SafetyPreferenceCollator:
        """Return the collator that pads both sides together."""
        return SafetyPreferenceCollator(padding_id(tokenizer))


class SafetyPreferenceCollator:
    """Pads on the right, both sides to one width.

    Gives ``safer_`` and ``unsafer_`` ``input_ids`` and ``attention_mask`` [B, S] (True: real token), ``lengths`` [B]
    and ``safety_sign`` [B] (+1 safe, -1 unsafe), and ``prompt_lengths`` [B].
    """

    def __init__(self, pad_token_id: int) -> None:
        self._pad_token_id = pad_token_id

    def __call__(self, samples: Sequence[Sample]) -> dict[str, Any]:
        safer = [sample["safer_input_ids"] for sample in samples]
        unsafer = [sample["unsafer_input_ids"] for sample in samples]
        return {
            **pad_pairs(safer, unsafer, names=("safer", "unsafer"), pad_token_id=self._pad_token_id),
            "safer_lengths": row_lengths(safer),
            "unsafer_lengths": row_lengths(unsafer),
            "safer_safety_sign": to_ids([sample["safer_safety_sign"] for sample in samples]),
            "unsafer_safety_sign": to_ids([sample["unsafer_safety_sign"] for sample in samples]),
            "prompt_lengths": to_ids([sample["prompt_length"] for sample in samples]),
        }
