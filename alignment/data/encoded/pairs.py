"""Two answers to one prompt: the encoding that preference and safety preference data share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from alignment.data.encode import Answer, EncodeOptions, Encoder
from alignment.data.encoded.lengths import fit_lengths
from alignment.data.encoded.mixture import Row
from alignment.data.encoded.tokenized import to_ids
from alignment.data.ledger import (
    BOUNDARY_RETOKENIZED,
    DROPPED_OVERLONG,
    EMPTY_ANSWER,
    EMPTY_PROMPT,
    IDENTICAL_PAIR,
    SHORT_ANSWER,
)
from alignment.data.padding import mask_rows, pad_rows
from alignment.data.raw.conversation import conversation


class EncodedPair(NamedTuple):
    """Two sequences that begin with the same prompt, or the reasons why there are none."""

    first: np.ndarray
    """[S1] int64, prompt + ``answer`` + EOS."""
    second: np.ndarray
    """[S2] int64, prompt + ``other_answer`` + EOS."""
    prompt_length: int
    reasons: tuple[str, ...]


def encode_pair(row: Row, encoder: Encoder, options: EncodeOptions) -> EncodedPair | tuple[str, ...]:
    """Encode ``input`` with ``answer`` and ``other_answer``; a tuple of ledger reasons when the row is not used."""
    asked = conversation(row.sample["input"], row.sample.get("tools"))
    texts = (row.sample["answer"], row.sample["other_answer"])
    if asked.has_blank_question:
        return (EMPTY_PROMPT,)
    if not all(text.strip() for text in texts):
        return (EMPTY_ANSWER,)
    prompt, answers = encoder.encode_answers(asked, texts)
    fault = _fault(prompt.ids, answers, encoder, options)
    if fault:
        return (fault,)
    fitted = fit_lengths(prompt.ids, [answer.ids for answer in answers], options, place=row.place)
    if fitted is None:
        return (DROPPED_OVERLONG,)
    first, second = fitted.answers
    if first == second:
        # Only the cut made them equal: what told them apart lay beyond the limit.
        return (DROPPED_OVERLONG,)
    reasons = [BOUNDARY_RETOKENIZED] * any(answer.retokenized for answer in answers)
    reasons += [fitted.reason] * (fitted.reason is not None)
    return EncodedPair(
        to_ids(fitted.prompt + first), to_ids(fitted.prompt + second), len(fitted.prompt), tuple(reasons)
    )


def pad_pairs(
    first: Sequence[np.ndarray], second: Sequence[np.ndarray], *, names: tuple[str, str], pad_token_id: int
) -> dict[str, np.ndarray]:
    """Return ``<name>_input_ids`` and ``<name>_attention_mask`` [B, S] (True: real token) of both sides, one S."""
    rows = [*first, *second]
    ids, mask = pad_rows(rows, value=pad_token_id), mask_rows(rows)
    half = len(first)
    return {
        f"{names[0]}_input_ids": ids[:half],
        f"{names[0]}_attention_mask": mask[:half],
        f"{names[1]}_input_ids": ids[half:],
        f"{names[1]}_attention_mask": mask[half:],
    }


def _fault(prompt_ids: list[int], answers: Sequence[Answer], encoder: Encoder, options: EncodeOptions) -> str | None:
    if not prompt_ids:
        return EMPTY_PROMPT
    shortest = min(encoder.count_content(answer.ids) for answer in answers)
    if shortest == 0:
        return EMPTY_ANSWER
    if shortest < options.min_answer_tokens:
        return SHORT_ANSWER
    return IDENTICAL_PAIR if answers[0].ids == answers[1].ids else None
