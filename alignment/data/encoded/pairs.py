"""Encode answers to one prompt, one or two, and pad pairs of them, as all kinds of preference data need them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from alignment.data.encode import Answer, EncodeOptions, Encoder
from alignment.data.encoded.mixture import Row
from alignment.data.encoded.tokenized import Collator, Sample, to_ids
from alignment.data.ledger import (
    BOUNDARY_RETOKENIZED,
    DROPPED_OVERLONG,
    EMPTY_ANSWER,
    EMPTY_PROMPT,
    IDENTICAL_PAIR,
    SHORT_ANSWER,
    UNKNOWN_DIFFERENCE,
    BadRow,
)
from alignment.data.lengths import Fitted, fit_lengths
from alignment.data.padding import mask_rows, pad_rows, row_lengths
from alignment.data.raw.conversation import conversation


class EncodedPair(NamedTuple):
    """Two sequences that begin with the same prompt."""

    first: np.ndarray
    """[S1] int64, prompt + ``answer`` + EOS."""
    second: np.ndarray
    """[S2] int64, prompt + ``other_answer`` + EOS."""
    prompt_length: int
    reasons: tuple[str, ...]
    """Ledger reasons: what was changed."""


class EncodedAnswers(NamedTuple):
    """Answers to one prompt, within the limits."""

    fitted: Fitted
    reasons: tuple[str, ...]
    """Ledger reasons: what was changed."""

    def sequences(self) -> list[np.ndarray]:
        """Return prompt + answer + EOS of each answer, [S] int64."""
        return [to_ids(self.fitted.prompt + answer) for answer in self.fitted.answers]


def encode_answers(
    row: Row,
    texts: Sequence[str],
    encoder: Encoder,
    options: EncodeOptions,
    *,
    fault_of: Callable[[Sequence[Answer]], str | None] = lambda answers: None,
) -> EncodedAnswers | tuple[str, ...]:
    """Encode ``input`` with each of ``texts``; return ledger reasons instead if the row is dropped.

    ``fault_of`` returns a reason to drop answers that are good each by itself.
    """
    asked = conversation(row.sample["input"], row.sample.get("tools"))
    if asked.has_blank_question:
        return (EMPTY_PROMPT,)
    if not all(text.strip() for text in texts):
        return (EMPTY_ANSWER,)
    prompt, answers = encoder.encode_answers(asked, texts)
    fault = _fault(prompt.ids, answers, encoder, options) or fault_of(answers)
    if fault:
        return (fault,)
    fitted = fit_lengths(prompt.ids, [answer.ids for answer in answers], options, place=row.place)
    if fitted is None:
        return (DROPPED_OVERLONG,)
    reasons = [BOUNDARY_RETOKENIZED] * any(answer.retokenized for answer in answers)
    reasons += [fitted.reason] * (fitted.reason is not None)
    return EncodedAnswers(fitted, tuple(reasons))


def encode_pair(row: Row, encoder: Encoder, options: EncodeOptions) -> EncodedPair | tuple[str, ...]:
    """Encode ``input`` with ``answer`` and ``other_answer``; return ledger reasons instead if the row is dropped."""
    texts = (row.sample["answer"], row.sample["other_answer"])

    def fault_of(answers: Sequence[Answer]) -> str | None:
        check_known(texts, [answer.ids for answer in answers], encoder.unknown_id, row.place)
        return IDENTICAL_PAIR if answers[0].ids == answers[1].ids else None

    encoded = encode_answers(row, texts, encoder, options, fault_of=fault_of)
    if not isinstance(encoded, EncodedAnswers):
        return encoded
    if encoded.fitted.answers[0] == encoded.fitted.answers[1]:
        # They differ only beyond the length limit.
        return (DROPPED_OVERLONG,)
    return EncodedPair(*encoded.sequences(), len(encoded.fitted.prompt), encoded.reasons)


class PairCollator(Collator):
    """Pads both sides on the right, to one width.

    Gives, for each of ``SIDES``, ``<side>_input_ids`` and ``<side>_attention_mask`` [B, S] (True: real token) and
    ``<side>_lengths`` [B]; and ``prompt_lengths`` [B].
    """

    SIDES: ClassVar[tuple[str, str]]

    def __call__(self, samples: Sequence[Sample]) -> dict[str, Any]:
        rows = [sample[f"{side}_input_ids"] for side in self.SIDES for sample in samples]
        ids, mask, lengths = pad_rows(rows, value=self._pad_token_id), mask_rows(rows), row_lengths(rows)
        batch = {"prompt_lengths": to_ids([sample["prompt_length"] for sample in samples])}
        for number, side in enumerate(self.SIDES):
            half = slice(number * len(samples), (number + 1) * len(samples))
            batch |= {f"{side}_input_ids": ids[half], f"{side}_attention_mask": mask[half]}
            batch[f"{side}_lengths"] = lengths[half]
        return batch


def _fault(prompt_ids: list[int], answers: Sequence[Answer], encoder: Encoder, options: EncodeOptions) -> str | None:
    if not prompt_ids:
        return EMPTY_PROMPT
    shortest = min(encoder.count_content(answer.ids) for answer in answers)
    if shortest == 0:
        return EMPTY_ANSWER
    return SHORT_ANSWER if shortest < options.min_answer_tokens else None


def check_known(texts: Sequence[str], ids: Sequence[Sequence[int]], unknown: int | None, place: object) -> None:
    """Refuse two answers, with ``ids``, that differ only in words that both become the unknown token."""
    if ids[0] == ids[1] and unknown in ids[0] and texts[0].split() != texts[1].split():
        raise BadRow(
            UNKNOWN_DIFFERENCE,
            f"{place}: the tokenizer does not know the text in which the answers {texts[0]!r:.40} and {texts[1]!r:.40} "
            "differ, so both become the same tokens",
        )
