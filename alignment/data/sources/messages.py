"""Message lists (``[{"role": "user", "content": "..."}, ...]``) to turns of text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from alignment.errors import DataError

_ROLES = ("user", "assistant")


def is_messages(value: Any) -> bool:
    """Tell whether ``value`` is a non-empty list whose first item is an object."""
    return isinstance(value, (list, tuple)) and bool(value) and isinstance(value[0], Mapping)


def turns_of(messages: Sequence[Any], place: str, *, first_role: str = "user") -> list[str]:
    """Return the contents of messages that alternate from ``first_role`` on; anything else is a ``DataError``."""
    start = _ROLES.index(first_role)
    turns = []
    for number, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("content"), str):
            raise DataError(f"{place}, message {number}: expected {{'role', 'content'}} with text, got {message!r:.80}")
        expected = _ROLES[(start + number) % 2]
        if message.get("role") != expected:
            raise DataError(
                f"{place}, message {number}: role {message.get('role')!r} where {expected!r} is expected "
                "(user and assistant alternate; system messages are not supported)"
            )
        turns.append(message["content"])
    return turns


def plain_input(value: Any, place: str) -> Any:
    """Return an ``input`` as text or a list of turns; message lists are converted, other values pass unchanged."""
    return turns_of(value, place) if is_messages(value) else value


def pair_of(prompt: Any, chosen: Any, rejected: Any, place: str) -> tuple[Any, Any, Any]:
    """Return (input, chosen answer, rejected answer) from message lists or strings; ``prompt`` None: inside the lists.

    Both lists must share every message but the last one, which is the assistant's.
    """
    if is_messages(chosen) != is_messages(rejected):
        raise DataError(f"{place}: the chosen and the rejected answer must both be strings or both message lists")
    if is_messages(chosen):
        before, chosen, rejected = _cut_pair(chosen, rejected, place)
        if before:
            return _agreed(prompt, before, place), chosen, rejected
    if prompt is None:
        raise DataError(f"{place}: the answers hold no user turn and there is no column with the prompt (prompt_key)")
    return plain_input(prompt, place), chosen, rejected


def _cut_pair(chosen: Sequence[Any], rejected: Sequence[Any], place: str) -> tuple[list[str], str, str]:
    """Return the turns both lists begin with, and their last messages."""
    before, chosen_answer = _cut(chosen, f"{place}, chosen")
    other_before, rejected_answer = _cut(rejected, f"{place}, rejected")
    if before != other_before:
        raise DataError(f"{place}: the chosen and the rejected conversation differ before their last message")
    return before, chosen_answer, rejected_answer


def _cut(messages: Sequence[Any], place: str) -> tuple[list[str], str]:
    only_answer = len(messages) == 1 and isinstance(messages[0], Mapping) and messages[0].get("role") == "assistant"
    turns = turns_of(messages, place, first_role="assistant" if only_answer else "user")
    if not only_answer and len(turns) % 2:
        raise DataError(f"{place}: the last message must be the assistant's")
    return turns[:-1], turns[-1]


def _agreed(prompt: Any, before: list[str], place: str) -> list[str]:
    """Return ``before``; a prompt column beside it must say the same, as all turns or as the first or last one."""
    if prompt is not None and plain_input(prompt, place) not in (before, before[0], before[-1]):
        raise DataError(f"{place}: the prompt column differs from the turns before the chosen answer")
    return before
