"""Convert turns in every common form to messages: {"role", "content"} with the roles of chat templates.

Accepted: role/content and from/value objects, question/answer objects or pairs, and alternating strings. Content parts
of type text are joined; other parts are refused by name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from alignment.data.ledger import BROKEN_DIALOGUE, NULL_FIELD, BadRow
from alignment.errors import DataError

Message = dict[str, Any]

ROLES: Mapping[str, str] = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "model", "bot", "chatgpt", "bing", "bard"), "assistant"),
    **dict.fromkeys(("tool", "observation", "ipython", "function", "function_response", "tool_response"), "tool"),
    **dict.fromkeys(("function_call", "tool_call"), "call"),
}
"""Names of roles, in lower case; ``call`` is an assistant turn whose text is a tool call in JSON."""

_PAIR_KEYS = (("human", "assistant"), ("user", "assistant"), ("input", "output"), ("question", "answer"))
_FLAGS = ("train", "weight", "loss")
_REFUSED_KEYS = ("train_detail", "images", "image", "audio", "videos", "loss_mask")
_TEMPLATE_KEYS = ("tool_calls", "tool_call_id", "name", "reasoning_content", "thinking")


def is_turns(value: Any) -> bool:
    """Tell whether ``value`` is a non-empty list whose first item is an object."""
    return isinstance(value, (list, tuple)) and bool(value) and isinstance(value[0], Mapping)


def read_turns(value: Any, place: object) -> list[Message]:
    """Convert a list of turns to messages; ``place`` begins every error message."""
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, (list, tuple)):
        raise DataError(f"{place} must be a list of messages, got {value!r:.60}")
    if not value:
        raise BadRow(BROKEN_DIALOGUE, f"{place} holds no messages")
    messages: list[Message] = []
    for number, turn in enumerate(value):
        messages += _read_turn(turn, number, f"{place}, message {number}")
    return messages


def call_message(calls: Any, place: object) -> Message:
    """Return an assistant message with tool calls; ``calls`` is ``{"name", "arguments"}``, a list of them, or JSON."""
    parsed = _parse_json(calls, place)
    items = parsed if isinstance(parsed, list) else [parsed]
    return {"role": "assistant", "content": "", "tool_calls": [_read_call(item, place) for item in items]}


def read_tools(value: Any, place: object) -> list[dict[str, Any]]:
    """Return tool descriptions given as a list or as JSON text."""
    parsed = _parse_json(value, place)
    if not isinstance(parsed, list) or not all(isinstance(tool, Mapping) for tool in parsed):
        raise DataError(f"{place} must be a list of objects (or its JSON text), got {value!r:.60}")
    return [dict(tool) for tool in parsed]


def _read_turn(turn: Any, number: int, place: object) -> list[Message]:
    if isinstance(turn, str):
        return [{"role": "assistant" if number % 2 else "user", "content": turn}]
    if isinstance(turn, (list, tuple)) and len(turn) == 2 and all(isinstance(text, str) for text in turn):
        return [{"role": "user", "content": turn[0]}, {"role": "assistant", "content": turn[1]}]
    if not isinstance(turn, Mapping):
        raise DataError(f"{place}: expected {{'role', 'content'}} with text, got {turn!r:.80}")
    turn = _with_empty_texts(turn)
    _refuse_null_text(turn, place)
    turn = {key: held for key, held in turn.items() if held is not None}
    if "role" not in turn and "from" not in turn:
        return _read_pair(turn, place)
    return [_read_message(turn, place)]


def _with_empty_texts(turn: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the turn with an empty text for a null one if nobody wrote it: a system message, the result of a tool."""
    spelling = turn.get("from") if turn.get("role") is None else turn["role"]
    names = [key for key in ("content", "value") if key in turn]
    is_empty = bool(names) and all(turn[key] is None for key in names)
    if is_empty and ROLES.get(str(spelling).lower()) in ("system", "tool"):
        return {**turn, names[0]: ""}
    return turn


def _refuse_null_text(turn: Mapping[str, Any], place: object) -> None:
    """Refuse a turn whose text is null, unless it calls a tool; tables fill other spellings with nulls."""
    if turn.get("role") is None and turn.get("from") is None:
        pairs = [pair for pair in _PAIR_KEYS if any(turn.get(key) is not None for key in pair)]
        nulls = [key for pair in pairs for key in pair if key in turn and turn[key] is None]
    else:
        names = [key for key in ("content", "value") if key in turn]
        nulls = [] if any(turn[key] is not None for key in names) else names[-1 if turn.get("role") is None else 0 :]
    if nulls and not turn.get("tool_calls") and not turn.get("function_call"):
        raise BadRow(NULL_FIELD, f"{place}: {nulls[0]!r} is null")


def _read_pair(turn: Mapping[str, Any], place: object) -> list[Message]:
    for question, answer in _PAIR_KEYS:
        if isinstance(turn.get(question), str) and isinstance(turn.get(answer), str):
            return [{"role": "user", "content": turn[question]}, {"role": "assistant", "content": turn[answer]}]
    raise DataError(f"{place}: expected {{'role', 'content'}} or {{'from', 'value'}} with text, got {dict(turn)!r:.80}")


def _read_message(turn: Mapping[str, Any], place: object) -> Message:
    spelling = turn.get("role", turn.get("from"))
    role = ROLES.get(str(spelling).lower())
    if role is None:
        raise DataError(f"{place}: unknown role {spelling!r} (allowed: {', '.join(ROLES)})")
    refused = [key for key in _REFUSED_KEYS if turn.get(key)]
    if refused:
        raise DataError(f"{place}: {refused[0]!r} changes what is trained on, but is not supported")
    value = turn.get("content", turn.get("value"))
    if role == "call":
        message = call_message(value, place)
    else:
        message = {"role": role, "content": _read_content(value, turn, place)}
    message |= _template_keys(turn, place)
    flag = _read_flag(turn, message["role"], place)
    return message if flag is not False else {**message, "train": False}


def _read_content(value: Any, turn: Mapping[str, Any], place: object) -> str:
    if value is None and (turn.get("tool_calls") or turn.get("function_call")):
        return ""
    if isinstance(value, str):
        return value
    if not isinstance(value, (list, tuple)):
        raise DataError(f"{place}: expected {{'role', 'content'}} with text, got {dict(turn)!r:.80}")
    return "".join(_read_part(part, place) for part in value)


def _read_part(part: Any, place: object) -> str:
    kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
    if kind != "text" or not isinstance(part.get("text"), str):
        raise DataError(f"{place}: a content part of type {kind!r} is not supported (allowed: parts of type 'text')")
    return part["text"]


def _template_keys(turn: Mapping[str, Any], place: object) -> Message:
    """Return the keys besides the text that a template may read, with tool calls in the chat-template form."""
    kept = {key: turn[key] for key in _TEMPLATE_KEYS if turn.get(key)}
    if "tool_calls" in kept:
        kept["tool_calls"] = [_read_call(call, place) for call in kept["tool_calls"]]
    elif turn.get("function_call"):
        kept["tool_calls"] = [_read_call(turn["function_call"], place)]
    return kept


def _read_call(call: Any, place: object) -> dict[str, Any]:
    """Return ``{"type": "function", "function": {"name", "arguments"}}`` with the arguments as an object."""
    inner = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(inner, Mapping) or not isinstance(inner.get("name"), str):
        raise DataError(f"{place}: a tool call must be {{'name', 'arguments'}}, got {call!r:.80}")
    arguments = inner.get("arguments", {})
    made: dict[str, Any] = {"name": inner["name"], "arguments": _parse_json(arguments, place)}
    number = {"id": call["id"]} if call.get("id") else {}
    return {**number, "type": "function", "function": made}


def _parse_json(value: Any, place: object) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError as error:
        raise DataError(f"{place}: {value!r:.80} is not valid JSON ({error.msg}, column {error.colno})") from error


def _read_flag(turn: Mapping[str, Any], role: str, place: object) -> bool | None:
    """Return whether the turn is trained on; None if the data does not say."""
    given = {key: turn[key] for key in _FLAGS if turn.get(key) is not None}
    for key, value in given.items():
        if value not in (0, 1):
            raise DataError(f"{place}: {key!r} is {value!r} (allowed: 0, 1, false, true)")
    flags = {bool(value) for value in given.values()}
    if len(flags) > 1:
        raise DataError(f"{place}: {', '.join(given)} contradict each other")
    if True in flags and role != "assistant":
        raise DataError(
            f"{place}: {next(iter(given))!r} asks to train on a turn of the {role}; only assistant turns can be"
        )
    return flags.pop() if flags and role == "assistant" else None


def join_texts(*texts: str | None) -> str:
    """Join the texts that are not empty with a space, as ``alpaca`` joins instruction and input."""
    return " ".join(text for text in texts if text)


def dialogue_turns(texts: Sequence[str]) -> list[Message]:
    """Return alternating texts, starting with the user's, as messages."""
    return [{"role": ("user", "assistant")[number % 2], "content": text} for number, text in enumerate(texts)]
