"""Requests for scores, in the forms of PaddleNLP's and OpenRLHF's clients, and a plain one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from alignment.data.raw.conversation import check_messages, check_tools, conversation
from alignment.errors import DataError
from alignment.serve.answers import HttpError
from alignment.serve.bodies import Body, wrong


class Answered(NamedTuple):
    """An answer to be scored."""

    asked: Any
    """The prompt, as the datasets give it; None: ``text`` is prompt and answer as one text."""
    text: str


class ScoreRequest(NamedTuple):
    """A request, and how its scores are told."""

    rows: list[Answered]
    tell: Callable[[Sequence[float]], dict[str, Any]]


def read_scores(body: Body) -> ScoreRequest:
    """Return what is asked; the keys of a request tell its form."""
    for key, read in (("src", _paddlenlp), ("query", _openrlhf), ("prompts", _plain)):
        if body.has(key):
            rows = read(body)
            body.refuse_others()
            if not rows.rows:
                raise HttpError(400, "there are no answers to score", param=key)
            return rows
    raise HttpError(400, "no answers: give src and response, query, or prompts and responses, each a list")


def _paddlenlp(body: Body) -> ScoreRequest:
    """``src``, ``tgt`` and ``response``: the form of ``reward_server`` here and in PaddleNLP."""
    body.get("tgt")
    rows = _pairs(body, "src", "response")
    return ScoreRequest(rows, lambda scores: {"score": list(scores)})


def _openrlhf(body: Body) -> ScoreRequest:
    """``query``: prompts and answers as whole texts, rendered by the client; ``prompts`` and ``labels`` beside them."""
    body.get("prompts"), body.get("labels")
    rows = [Answered(None, text) for text in body.texts("query")]
    return ScoreRequest(rows, lambda scores: {"rewards": list(scores), "scores": list(scores), "extra_logs": {}})


def _plain(body: Body) -> ScoreRequest:
    rows = _pairs(body, "prompts", "responses")
    return ScoreRequest(rows, lambda scores: {"rewards": list(scores)})


def _pairs(body: Body, asked: str, answered: str) -> list[Answered]:
    prompts, responses = body.get(asked), body.texts(answered)
    if not isinstance(prompts, list) or len(prompts) != len(responses):
        count = len(prompts) if isinstance(prompts, list) else "no list of"
        raise HttpError(400, f"{count} {asked} for {len(responses)} of {answered}; each needs one", param=asked)
    return [
        Answered(_prompt(prompt, f"{asked}[{number}]"), response)
        for number, (prompt, response) in enumerate(zip(prompts, responses, strict=True))
    ]


def _prompt(given: Any, place: str) -> Any:
    """Return a text, turns, messages, or messages with tools."""
    if isinstance(given, str) or (isinstance(given, list) and given and all(isinstance(turn, str) for turn in given)):
        return given
    try:
        if isinstance(given, dict) and set(given) <= {"messages", "tools"}:
            messages = check_messages(given.get("messages"), f"{place}.messages")
            return conversation(messages, check_tools(given.get("tools") or [], f"{place}.tools"))
        return conversation(check_messages(given, place))
    except DataError as error:
        raise wrong(place, given, f"a text, turns or messages: {error}") from None
