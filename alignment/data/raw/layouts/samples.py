"""Turn prompts, turns and answers into the fields of a raw sample: alternating texts if possible, else messages."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from alignment.data.ledger import BROKEN_DIALOGUE, DIFFERENT_PROMPTS, EMPTY_ANSWER, BadRow
from alignment.data.raw.layouts.transcripts import check_prompt, is_transcript, lacks_answer, read_transcript
from alignment.data.raw.layouts.turns import Message, dialogue_turns, is_turns, read_turns
from alignment.errors import DataError
from alignment.records import RawSample


def prompt_turns(value: Any, place: object) -> list[Message]:
    """Return a prompt (text, transcript, turns) as messages; one that ends with an answer is refused."""
    if isinstance(value, str) and not is_transcript(value):
        check_prompt(value, place)
        return dialogue_turns([value])
    messages = read_transcript(value, place) if isinstance(value, str) else read_turns(value, place)
    last = messages[-1]
    if isinstance(value, str) and last["role"] == "assistant" and not last["content"]:
        messages = messages[:-1]
    if messages[-1]["role"] not in ("user", "tool"):
        raise DataError(
            f"{place}: the prompt contains an answer (its last turn is the {messages[-1]['role']}'s); name a column of "
            "prompts, or set messages_key to train on whole conversations"
        )
    return messages


def prompt_of(value: Any, place: object) -> Any:
    """Return a prompt as an ``input``: text unchanged, lists as turns; ``check_sample`` refuses other types."""
    if not isinstance(value, (str, list, tuple, Mapping)):
        return value
    if isinstance(value, str) and not is_transcript(value):
        check_prompt(value, place)
        return value
    return input_of(prompt_turns(value, place))


def input_of(messages: Sequence[Message]) -> list[Any]:
    """Return prompt turns as alternating texts if those say the same, else as messages."""
    return [message["content"] for message in messages] if _is_plain(messages) else list(messages)


def conversation_of(value: Any, place: object) -> RawSample:
    """Return a sample of a whole conversation, or of a prompt if it ends with a question; None stays None."""
    if value is None:
        return RawSample(dialogue=None)
    messages = (
        read_transcript(value, place) if isinstance(value, str) and is_transcript(value) else read_turns(value, place)
    )
    return sample_of(messages, place)


def sample_of(messages: Sequence[Message], place: object) -> RawSample:
    """Like ``conversation_of``, for messages."""
    if messages[-1]["role"] == "system":
        raise BadRow(BROKEN_DIALOGUE, f"{place}: the conversation ends with a system message")
    if messages[-1]["role"] != "assistant":
        return RawSample(input=input_of(messages))
    if _is_plain(messages):
        return RawSample(dialogue=[message["content"] for message in messages])
    return RawSample(messages=list(messages))


def answered(prompt: Any, answer: Any, place: object) -> RawSample:
    """Return a sample of a prompt with one answer: text, or turns (with tools an answer may have several)."""
    if not isinstance(answer, (list, tuple, Mapping)):
        return RawSample(input=prompt_of(prompt, place), answer=_strip_after(prompt, answer))
    if not isinstance(answer, Mapping) and not is_turns(answer):
        raise DataError(f"{place}: an answer must be text or messages, got {answer!r:.60}")
    turns = read_turns(answer, place)
    before = prompt_turns(prompt, place) if prompt is not None else []
    if before and turns[: len(before)] == before:
        turns = turns[len(before) :]
    if len(turns) == 1 and set(turns[0]) == {"role", "content"} and turns[0]["role"] == "assistant":
        return RawSample(input=prompt_of(prompt, place), answer=turns[0]["content"])
    return sample_of([*map(untrained, before), *turns], place)


def untrained(message: Message) -> Message:
    """Return the message, excluded from training."""
    return {**message, "train": False} if message["role"] == "assistant" else message


def pair_of(prompt: Any, chosen: Any, rejected: Any, place: object) -> RawSample:
    """Return a sample with the chosen answer first; ``prompt`` None: both answers begin with it.

    Answers are texts, transcripts, one message, or conversations that differ only in their last turn.
    """
    if chosen is None or rejected is None:
        return RawSample(input=prompt_of(prompt, place), answer=chosen, other_answer=rejected, better=True)
    _check_kinds(prompt, {"chosen": chosen, "rejected": rejected}, place)
    if not _is_conversation(chosen):
        return _text_pair(prompt, chosen, rejected, place)
    before, first = _cut(chosen, f"{place}, chosen")
    other_before, second = _cut(rejected, f"{place}, rejected")
    if before != other_before:
        raise BadRow(
            DIFFERENT_PROMPTS, f"{place}: the chosen and the rejected conversation differ before the last message"
        )
    if before and prompt is not None:
        before = _agreed(prompt, before, place)
    if not before and prompt is None:
        raise _no_prompt(place)
    given = input_of(before) if before else prompt_of(prompt, place)
    return RawSample(input=given, answer=first, other_answer=second, better=True)


def ranked_of(prompt: Any, answers: Sequence[Any], scores: Sequence[Any], place: object) -> RawSample:
    """Return a pair of the best and the worst of several answers by score (higher is better; first of equals).

    Answers whose score is null or NaN are ignored. Equal scores are a tie; a single answer has no partner.
    """
    if len(answers) != len(scores):
        raise DataError(f"{place}: {len(answers)} answers but {len(scores)} scores")
    known = [(answer, number_of(score, place)) for answer, score in zip(answers, scores, strict=True)]
    known = [(answer, score) for answer, score in known if not math.isnan(score)]
    if len(known) < 2:
        only = known[0][0] if known else (answers[0] if answers else None)
        return RawSample(input=prompt_of(prompt, place), answer=only, other_answer=None, better=None)
    best = max(known, key=lambda item: item[1])
    worst = min((item for item in known if item is not best), key=lambda item: item[1])
    sample = pair_of(prompt, best[0], worst[0], place)
    return sample if best[1] > worst[1] else RawSample(**{**sample, "better": None})


def compare(first: Any, second: Any, place: object) -> bool | None:
    """Return whether the first score is higher; None for a tie, or if a score is null or NaN."""
    scores = number_of(first, place), number_of(second, place)
    if any(map(math.isnan, scores)) or scores[0] == scores[1]:
        return None
    return scores[0] > scores[1]


def number_of(value: Any, place: object) -> float:
    """Return a score as a float; NaN if it is null."""
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise DataError(f"{place}: score {value!r} must be a number")
    return float(value)


def flag_of(value: Any, place: object) -> bool | None:
    """Return a boolean label, which may be written 0 or 1; None stays None."""
    if value is None or value in (0, 1):
        return None if value is None else bool(value)
    raise DataError(f"{place} is {value!r:.60} (allowed: true, false, 1, 0)")


def with_context(sample: RawSample, system: str | None, tools: list[dict[str, Any]] | None) -> RawSample:
    """Return the sample with a system message before its turns, and with tools."""
    made: dict[str, Any] = dict(sample)
    if system:
        head = {"role": "system", "content": system}
        for field in ("input", "messages"):
            if made.get(field) is not None:
                turns = [made[field]] if isinstance(made[field], str) else made[field]
                made[field] = [head, *_as_messages(turns)]
        if made.get("dialogue") is not None:
            made["messages"] = [head, *dialogue_turns(made.pop("dialogue"))]
    if tools:
        made["tools"] = tools
    return RawSample(**made)


def _as_messages(turns: Sequence[Any]) -> list[Message]:
    return list(turns) if is_turns(turns) else dialogue_turns(turns)


def _is_plain(messages: Sequence[Message]) -> bool:
    """Tell whether alternating texts, starting with the user's, say the same."""
    return all(
        set(message) == {"role", "content"} and message["role"] == ("user", "assistant")[number % 2]
        for number, message in enumerate(messages)
    )


def _is_conversation(value: Any) -> bool:
    return is_turns(value) or isinstance(value, Mapping) or (isinstance(value, str) and is_transcript(value))


def _check_kinds(prompt: Any, answers: Mapping[str, Any], place: object) -> None:
    """Refuse answers of different kinds, empty ones, and transcripts in which the assistant says nothing."""
    kinds = {_is_conversation(value) for value in answers.values()}
    for name, value in answers.items():
        if value in ([], ()):
            raise BadRow(EMPTY_ANSWER, f"{place}: {name} is empty")
        if isinstance(value, str) and lacks_answer(value) and (prompt is None or True in kinds):
            raise BadRow(BROKEN_DIALOGUE, f"{place}: {name} holds no assistant turn, got {value!r:.60}")
    if len(kinds) > 1:
        said = " and ".join(
            f"{name} is {'a conversation' if _is_conversation(value) else 'plain text'}"
            for name, value in answers.items()
        )
        raise DataError(f"{place}: {said}; both must be of one kind")


def _cut(value: Any, place: object) -> tuple[list[Message], str]:
    """Split off the last turn, which must be the assistant's; return the turns before it, and its text."""
    messages = read_transcript(value, place) if isinstance(value, str) else read_turns(value, place)
    last = messages[-1]
    if last["role"] != "assistant":
        raise BadRow(
            BROKEN_DIALOGUE, f"{place} ends with a turn of the {last['role']}, not with the assistant's answer"
        )
    if last.get("tool_calls"):
        raise DataError(f"{place}: the last message must be the assistant's answer, not a tool call")
    return messages[:-1], last["content"]


def _text_pair(prompt: Any, chosen: Any, rejected: Any, place: object) -> RawSample:
    if prompt is None:
        raise _no_prompt(place)
    for answer in (chosen, rejected):
        if isinstance(answer, (list, tuple)):
            raise DataError(f"{place}: an answer must be text or messages, got {answer!r:.60}")
    answers = [_strip_after(prompt, text) for text in (chosen, rejected)]
    if isinstance(prompt, str) and len(prompt) > 40 and all(_begins(text, prompt) for text in (chosen, rejected)):
        answers = [text[len(prompt) :].strip() for text in (chosen, rejected)]
    return RawSample(input=prompt_of(prompt, place), answer=answers[0], other_answer=answers[1], better=True)


def _begins(text: Any, prompt: str) -> bool:
    return isinstance(text, str) and text.startswith(prompt) and len(text) > len(prompt)


def _strip_after(prompt: Any, answer: Any) -> Any:
    """Return an answer without the space that a transcript puts after ``Assistant:``."""
    is_open = isinstance(prompt, str) and is_transcript(prompt)
    return answer.strip() if is_open and isinstance(answer, str) else answer


def _agreed(prompt: Any, before: list[Message], place: object) -> list[Message]:
    """Return ``before``; the prompt column must repeat all its turns, or the text of one."""
    said = prompt_turns(prompt, place)
    texts = [message["content"].strip() for message in before]
    asked = [message["content"].strip() for message in said]
    if said != before and asked != texts and not (len(asked) == 1 and asked[0] in texts):
        raise DataError(f"{place}: the prompt column differs from the turns before the chosen answer")
    return before


def _no_prompt(place: object) -> DataError:
    return DataError(f"{place}: the answers contain no user turn and there is no column with the prompt (prompt_key)")
