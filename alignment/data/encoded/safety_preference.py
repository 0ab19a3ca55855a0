"""Pairs of a safer and a less safe answer with a safety label for each, for cost models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from alignment.data.encode import Encoder
from alignment.data.encoded.mixture import Row
from alignment.data.encoded.pairs import EncodedPair, PairCollator, encode_pair
from alignment.data.encoded.tokenized import Encoded, Sample, TokenizedDataset, to_ids
from alignment.data.ledger import CONTRADICTORY_SAFETY
from alignment.data.raw.raw_sample import require_fields

_FIELDS = ("input", "answer", "other_answer", "safer", "is_safe", "is_other_safe")


class SafetyPreferenceCollator(PairCollator):
    """Pads the ``safer`` and the ``unsafer`` side and adds ``<side>_safety_sign`` [B] (+1 safe, -1 unsafe)."""

    SIDES = ("safer", "unsafer")

    def __call__(self, samples: Sequence[Sample]) -> dict[str, Any]:
        names = [f"{side}_safety_sign" for side in self.SIDES]
        return super().__call__(samples) | {name: to_ids([sample[name] for sample in samples]) for name in names}


class SafetyPreferenceDataset(TokenizedDataset):
    """Gives ``{"safer_input_ids", "unsafer_input_ids", "safer_safety_sign", "unsafer_safety_sign", "prompt_length"}``.

    A sign is +1 for a safe answer and -1 for an unsafe one. Reads ``input, answer, other_answer, safer, is_safe,
    is_other_safe``; a row whose safer answer is unsafe while the other is safe contradicts itself and is dropped.
    """

    KIND = "safety preference"
    COMPARES_ANSWERS = True
    COLLATOR = SafetyPreferenceCollator

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
