"""Conversations as messages, the common form of every ``input`` or dialogue before it is rendered."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from alignment.errors import DataError

ROLES = ("system", "user", "assistant", "tool")
TRAIN = "train"
"""Message key: whether an assistant turn is trained on; never passed to a template."""

Message = Mapping[str, Any]
Given = str | Sequence[str] | Sequence[Message] | Mapping[str, Any]
"""A user's text; turns, the user's first; messages; or ``{"messages": ..., "tools": ...}``."""


@dataclass(frozen=True)
class Conversation:
    """Messages and the tools that the assistant may call."""

    messages: tuple[Message, ...]
    """Each has ``role`` and ``content``; other keys (``tool_calls``, ``name``) are passed to the template."""
    tools: tuple[Mapping[str, Any], ...] = ()

    @cached_property
    def targets(self) -> list[int]:
        """Indices of the assistant turns that are trained on."""
        return [
            number
            for number, message in enumerate(self.messages)
            if message["role"] == "assistant" and message.get(TRAIN, True)
        ]

    @property
    def has_blank_question(self) -> bool:
        """True: a user turn has no text, or the first target has no turn before it."""
        if not self.messages or self.targets[:1] == [0]:
            return True
        return any(message["role"] == "user" and not text_of(message).strip() for message in self.messages)

    @property
    def has_blank_target(self) -> bool:
        """True: a trained turn has neither text nor a tool call."""
        return any(not is_said(self.messages[number]) for number in self.targets)

    def before(self, number: int) -> Conversation:
        """Return the first ``number`` messages."""
        return Conversation(self.messages[:number], self.tools)

    def answered(self, answer: str) -> Conversation:
        """Return the conversation with ``answer`` appended as its only trained turn."""
        silent = tuple(
            {**message, TRAIN: False} if message["role"] == "assistant" else message for message in self.messages
        )
        return Conversation((*silent, {"role": "assistant", "content": answer}), self.tools)

    def trained_on_last(self) -> Conversation:
        """Return the conversation with only the last of its trained turns trained on."""
        silent = set(self.targets[:-1])
        messages = (
            {**message, TRAIN: False} if number in silent else message for number, message in enumerate(self.messages)
        )
        return Conversation(tuple(messages), self.tools) if silent else self

    def key(self) -> str:
        """Return a string that is equal only for equal conversations."""
        return json.dumps([self.messages, self.tools], sort_keys=True, default=repr)


def conversation(value: Given | Conversation, tools: Sequence[Mapping[str, Any]] | None = None) -> Conversation:
    """Convert any form of an ``input`` or a dialogue to messages; plain strings alternate, starting with the user."""
    if isinstance(value, Conversation):
        return value
    if isinstance(value, Mapping):
        return conversation(value["messages"], value.get("tools"))
    if isinstance(value, str):
        return Conversation(({"role": "user", "content": value},), tuple(tools or ()))
    messages = tuple(
        {"role": ("user", "assistant")[number % 2], "content": turn} if isinstance(turn, str) else turn
        for number, turn in enumerate(value)
    )
    return Conversation(messages, tuple(tools or ()))


def text_of(message: Message) -> str:
    """Return the text of a message; empty if it only calls tools."""
    return message.get("content") or ""


def is_said(message: Message) -> bool:
    """Tell whether a message has text or a tool call."""
    return bool(text_of(message).strip()) or bool(message.get("tool_calls"))


def shown_text(value: Given) -> str:
    """Return an ``input`` as readable lines: plain turns as they are, messages prefixed with their role."""
    if isinstance(value, str):
        return value
    turns = value["messages"] if isinstance(value, Mapping) else value
    return "\n".join(turn if isinstance(turn, str) else f"{turn['role']}: {text_of(turn)}" for turn in turns)


def check_messages(value: Any, place: str) -> list[dict[str, Any]]:
    """Return ``value`` as plain messages; a wrong type, role or flag is a ``DataError`` naming the message.

    Keys that are None count as missing (tables fill columns with them); text parts are joined.
    """
    if not isinstance(value, (list, tuple)) or not value:
        raise DataError(f"{place} must be a list of messages, got {value!r:.80}")
    return [_check_message(message, f"{place}, message {number}") for number, message in enumerate(value)]


def check_tools(value: Any, place: str) -> list[dict[str, Any]]:
    """Return tool descriptions as plain dictionaries."""
    if not isinstance(value, (list, tuple)) or not all(isinstance(tool, Mapping) for tool in value):
        raise DataError(f"{place} must be a list of objects (one JSON schema per tool), got {value!r:.80}")
    return [dict(tool) for tool in value]


def _check_message(message: Any, place: str) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise DataError(f"{place} must be an object with role and content, got {message!r:.80}")
    given = {key: value for key, value in message.items() if value is not None}
    if given.get("role") not in ROLES:
        raise DataError(f"{place}: role {given.get('role')!r} (allowed: {', '.join(ROLES)})")
    if TRAIN in given and (given["role"] != "assistant" or not isinstance(given[TRAIN], bool)):
        raise DataError(
            f"{place}: {TRAIN} is {given[TRAIN]!r} in a turn of the {given['role']} (allowed: true or false, in "
            "assistant turns only)"
        )
    if "content" not in given and given["role"] == "assistant" and given.get("tool_calls"):
        return {**given, "content": ""}
    return {**given, "content": _check_content(given.get("content"), place)}


def _check_content(content: Any, place: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, (list, tuple)):
        raise DataError(f"{place}: content must be text, got {content!r:.80}")
    for part in content:
        if not isinstance(part, Mapping) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise DataError(f"{place}: only parts of type 'text' can be trained on, got {part!r:.80}")
    return "".join(part["text"] for part in content)
