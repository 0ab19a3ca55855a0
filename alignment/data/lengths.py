"""Apply length limits: a row that does not fit is dropped, truncated on the configured side, or refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from alignment.data.encode import EncodeOptions
from alignment.data.ledger import TRUNCATED_LEFT, TRUNCATED_RIGHT
from alignment.errors import DataError

_CROSSES = "; the answer would cross original_max_position_embeddings of longrope"


class Fitted(NamedTuple):
    """A prompt and its answers (none, one, or the two of a pair) within the limits."""

    prompt: list[int]
    answers: list[list[int]]
    reason: str | None
    """The ledger reason if it was truncated, or None."""


def fit_lengths(
    prompt: list[int], answers: Sequence[list[int]], options: EncodeOptions, *, place: object
) -> Fitted | None:
    """Apply ``options.on_overlong``; None: the row does not fit and is dropped (``dropped_overlong``).

    ``left`` truncates the prompt and keeps the answers whole; ``right`` truncates the sequence's end, which loses EOS.
    A row that would be left without prompt or answer tokens is dropped instead.
    """
    limit_prompt = options.max_length if options.max_prompt_length is None else options.max_prompt_length
    limit_prompt = min(limit_prompt, options.max_length)
    if len(prompt) in options.unanswerable:
        limit_prompt = min(limit_prompt, options.unanswerable.start - 1)
    longest = max(map(len, answers), default=0)
    if len(prompt) <= limit_prompt and len(prompt) + longest <= options.max_length:
        return Fitted(prompt, list(answers), None)
    if options.on_overlong == "error":
        raise DataError(
            f"{place}: {len(prompt)} prompt tokens and {longest} answer tokens do not fit (max_length "
            f"{options.max_length}, max_prompt_length {options.max_prompt_length}); "
            "set on_overlong to drop, left or right, or raise the limit"
            + (_CROSSES if len(prompt) in options.unanswerable else "")
        )
    if options.on_overlong == "left":
        return _cut_left(prompt, answers, min(limit_prompt, options.max_length - longest))
    if options.on_overlong == "right":
        return _cut_right(prompt[:limit_prompt], answers, options) if limit_prompt else None
    return None


def _cut_left(prompt: list[int], answers: Sequence[list[int]], room: int) -> Fitted | None:
    return Fitted(prompt[-room:], list(answers), TRUNCATED_LEFT) if room >= 1 else None


def _cut_right(prompt: list[int], answers: Sequence[list[int]], options: EncodeOptions) -> Fitted | None:
    room = options.max_length - len(prompt)
    if answers and room < max(1, options.min_answer_tokens):
        return None
    return Fitted(prompt, [answer[:room] for answer in answers], TRUNCATED_RIGHT)
