"""Pairs put as a question to a language model, in both orders, for pairwise preference models."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from alignment.data.encode import Encoder
from alignment.data.encoded.mixture import Row
from alignment.data.encoded.pairs import check_known
from alignment.data.encoded.preference import PreferenceDataset
from alignment.data.encoded.tokenized import Collator, Encoded, Sample, TokenizedDataset, to_ids
from alignment.data.ledger import DROPPED_OVERLONG, EMPTY_ANSWER, EMPTY_PROMPT, IDENTICAL_PAIR, SHORT_ANSWER, TIED_PAIR
from alignment.data.lengths import fit_lengths
from alignment.data.padding import mask_rows, pad_rows, row_lengths
from alignment.data.raw.conversation import conversation
from alignment.data.raw.raw_sample import require_fields

ORDERS = ("better_first", "worse_first")


class ComparisonCollator(Collator):
    """Pads both orders on the right, to one width.

    Gives, for each of ``ORDERS``, ``<order>_input_ids``, ``<order>_attention_mask`` [B, S] (True: real token) and
    ``<order>_lengths`` [B].
    """

    def __call__(self, samples: Sequence[Sample]) -> dict[str, Any]:
        rows = [sample[f"{order}_input_ids"] for order in ORDERS for sample in samples]
        ids, mask, lengths = pad_rows(rows, value=self._pad_token_id), mask_rows(rows), row_lengths(rows)
        batch = {}
        for number, order in enumerate(ORDERS):
            half = slice(number * len(samples), (number + 1) * len(samples))
            batch |= {f"{order}_input_ids": ids[half], f"{order}_attention_mask": mask[half]}
            batch[f"{order}_lengths"] = lengths[half]
        return batch


class ComparisonDataset(TokenizedDataset):
    """Samples with ``better_first_input_ids`` [S1], ``worse_first_input_ids`` [S2] and what an evaluation needs.

    Each sequence is the question of ``options.comparison`` with the letter that is right behind it; ``extra_length`` is
    the number of tokens of the better answer minus those of the worse one, ``margin`` a float or None, ``digest`` and
    ``prompt_digest`` stand for all texts and for the prompt. Reads what a ``PreferenceDataset`` does. A row that does
    not fit is dropped, never truncated: it would lose its context, an answer, or the place of the letter.
    """

    KIND = "pairwise"
    COLLATOR = ComparisonCollator
    COMPARES_ANSWERS = True

    @cached_property
    def _letters(self) -> tuple[int, int]:
        return self.options.comparison.letter_ids(self.tokenizer)

    def encode_row(self, row: Row, encoder: Encoder) -> Encoded:
        """Encode one pair in both orders."""
        require_fields(row.sample, PreferenceDataset.FIELDS, kind=self.KIND, place=row.place)
        pair = row.sample
        better, worse = pair["answer"], pair["other_answer"]
        fault = _fault(row) or self._short(better, worse)
        if fault:
            return Encoded(None, (fault,))
        if not pair["better"]:
            better, worse = worse, better
        asked = conversation(pair["input"], pair.get("tools"))
        texts = ((better, worse), (worse, better))
        questions = [self.options.comparison.encode(encoder, asked, *answers) for answers in texts]
        check_known((better, worse), questions, encoder.unknown_id, row.place)
        if questions[0] == questions[1]:
            return Encoded(None, (IDENTICAL_PAIR,))
        longest = max(questions, key=len)
        fitted = fit_lengths(longest, [[self._letters[0]]], self.options, place=row.place)
        if fitted is None or fitted.reason is not None:
            return Encoded(None, (DROPPED_OVERLONG,))
        rows = [to_ids([*ids, letter]) for ids, letter in zip(questions, self._letters, strict=True)]
        sample = {f"{order}_input_ids": ids for order, ids in zip(ORDERS, rows, strict=True)}
        extra = self._count(better) - self._count(worse)
        digests = {"digest": _digest(asked.key(), better, worse), "prompt_digest": _digest(asked.key())}
        return Encoded({**sample, "extra_length": extra, "margin": pair.get("margin"), **digests}, ())

    def _count(self, text: str) -> int:
        return len(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _short(self, *answers: str) -> str | None:
        return SHORT_ANSWER if min(map(self._count, answers)) < self.options.min_answer_tokens else None


def _fault(row: Row) -> str | None:
    """Return the ledger's reason to drop a pair, from its texts."""
    pair = row.sample
    if pair["better"] is None:
        return TIED_PAIR
    if conversation(pair["input"], pair.get("tools")).has_blank_question:
        return EMPTY_PROMPT
    if not (pair["answer"].strip() and pair["other_answer"].strip()):
        return EMPTY_ANSWER
    return IDENTICAL_PAIR if pair["answer"].split() == pair["other_answer"].split() else None


def _digest(*texts: str) -> int:
    """Return a 52-bit number that tells texts apart."""
    return int(hashlib.sha256(repr(texts).encode("utf-8", "replace")).hexdigest()[:13], 16)
