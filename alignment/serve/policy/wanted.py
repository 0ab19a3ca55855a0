"""Read requests for completions and chat: prompts, options, and what is told of the answers."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

from alignment.data.raw.conversation import check_messages, check_tools, conversation
from alignment.errors import DataError, UserError
from alignment.generation.engine import GenerationOptions
from alignment.generation.live import Ask
from alignment.serve.answers import HttpError
from alignment.serve.bodies import Body, is_ids, wrong
from alignment.serve.policy.service import PolicyService, as_prompts

MOST_LIKELIEST = 20
_NEUTRAL: Mapping[str, tuple[Any, ...]] = MappingProxyType(
    {
        "presence_penalty": (0,),
        "frequency_penalty": (0,),
        "logit_bias": ({},),
        "ignore_eos": (False,),
        "suffix": ("",),
        "response_format": ({"type": "text"},),
        "tool_choice": ("none", "auto"),
        "store": (False,),
    }
)
"""Keys of OpenAI's interface that are accepted with the value at which they change nothing."""
_UNREAD = ("model", "user", "metadata", "safety_identifier", "parallel_tool_calls")
"""Keys that change no answer (``model`` has chosen the policy)."""
_DEFAULT_TOKENS = 16
"""``max_tokens`` of a completion, as OpenAI has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A request."""

    ask: Ask
    prompt_ids: list[list[int]]
    prompt_texts: list[str]
    n: int
    """Answers to each prompt."""
    stops: list[str]
    streams: bool
    tells_usage: bool
    """Whether a stream ends with the number of tokens."""
    logprobs: int | None
    """How many of the likeliest tokens are told with the log-probs; None: no log-probs."""
    echoes: bool
    """Whether the text of an answer begins with its prompt."""
    tells_ids: bool
    """Whether token ids are told."""


class _Asked(NamedTuple):
    """What is read in another way for completions and for chat."""

    texts: list[str]
    ids: list[list[int]]
    n: int
    limit: int
    logprobs: int | None
    echoes: bool = False


def read_completion(body: Body, service: PolicyService) -> Wanted:
    """Return what a request to ``/v1/completions`` wants; HttpError for what is not allowed."""
    texts, ids = _read_prompts(body.get("prompt"), service)
    echoes, logprobs = body.flag("echo"), body.integer("logprobs", None, low=0, high=MOST_LIKELIEST)
    if echoes and logprobs is not None:
        raise HttpError(400, "echo with logprobs: the log-probs of a prompt are not told", param="echo")
    n = body.integer("n", 1, low=1)
    if body.integer("best_of", n, low=1) != n:
        raise HttpError(400, f"best_of={body.get('best_of')} (allowed: n, {n})", param="best_of")
    limit = body.integer("max_tokens", _DEFAULT_TOKENS, low=1)
    return _finish(body, service, _Asked(texts, ids, n, limit, logprobs, echoes))


def read_chat(body: Body, service: PolicyService) -> Wanted:
    """Return what a request to ``/v1/chat/completions`` wants; HttpError for what is not allowed."""
    try:
        messages = check_messages(body.get("messages"), "messages")
        if messages[-1]["role"] not in ("user", "tool"):
            raise DataError(f"messages end with a turn of the {messages[-1]['role']}; the last must be a user's")
        asked = conversation(messages, check_tools(body.get("tools", []), "tools"))
        prompt = service.voice.encoder.encode_prompt(asked)
    except DataError as error:
        raise HttpError(400, str(error), param="messages") from None
    wants, count = body.flag("logprobs"), body.integer("top_logprobs", 0, low=0, high=MOST_LIKELIEST)
    if count and not wants:
        raise HttpError(400, f"top_logprobs={count} needs logprobs: true", param="top_logprobs")
    old = body.integer("max_tokens", None, low=1)
    limit = body.integer("max_completion_tokens", old, low=1)
    limit = limit or max(1, service.longest_answered(len(prompt.ids)) - len(prompt.ids))
    n, logprobs = body.integer("n", 1, low=1), count if wants else None
    return _finish(body, service, _Asked([prompt.text], [prompt.ids], n, limit, logprobs))


def _read_prompts(given: Any, service: PolicyService) -> tuple[list[str], list[list[int]]]:
    """Return texts and token ids of a text, token ids, or a list of either."""
    voice = service.voice
    if isinstance(given, str) or (is_ids(given) and given):
        given = [given]
    if not isinstance(given, list) or not given or not all(isinstance(one, str) or is_ids(one) for one in given):
        raise wrong("prompt", given, "a text, a list of token ids, or a list of either")
    vocabulary = voice.config.vocab_size
    for one in given:
        if not one or (not isinstance(one, str) and max(one) >= vocabulary):
            raise wrong("prompt", one, f"not empty; token ids from 0 to {vocabulary - 1}")
    ids = [voice.encoder.open_text(one) if isinstance(one, str) else one for one in given]
    texts = [one if isinstance(one, str) else voice.tokenizer.decode(one) for one in given]
    return texts, ids


def _finish(body: Body, service: PolicyService, asked: _Asked) -> Wanted:
    _check_lengths(asked.ids, asked.limit, service)
    streams, count = body.flag("stream"), len(asked.ids) * asked.n
    service.room.check(count)
    wanted = Wanted(
        ask=Ask(
            prompts=as_prompts(asked.ids, asked.n),
            options=_read_options(body, asked.limit, service),
            seed=body.integer("seed", secrets.randbits(63), low=0, high=2**64 - 1),
            sequence_ids=_addresses(body.integer("sequence_id", 0, low=0, high=2**63), count),
            num_likeliest=asked.logprobs or 0,
        ),
        prompt_ids=asked.ids,
        prompt_texts=asked.texts,
        n=asked.n,
        stops=_read_stops(body),
        streams=streams,
        tells_usage=_read_stream_options(body, streams),
        logprobs=asked.logprobs,
        echoes=asked.echoes,
        tells_ids=body.flag("return_token_ids"),
    )
    body.neutral(_NEUTRAL)
    for key in _UNREAD:
        body.get(key)
    body.refuse_others()
    return wanted


def _addresses(first: int, count: int) -> range:
    return range(first, first + count)


def _check_lengths(ids: list[list[int]], limit: int, service: PolicyService) -> None:
    for tokens in sorted(map(len, ids), reverse=True):
        most = service.longest_answered(tokens)
        if tokens + limit > most:
            why = "" if most == service.longest else ", original_max_position_embeddings of longrope"
            raise HttpError(
                400,
                f"the prompt has {tokens} tokens and the answer may have {limit}; together at most {most}{why}",
                param="max_tokens",
                code="context_length_exceeded",
            )


def _read_options(body: Body, limit: int, service: PolicyService) -> GenerationOptions:
    """Return the options; a temperature of 0 takes the likeliest token."""
    temperature = body.number("temperature", 1.0, low=0)
    others, known = tuple(body.integers("stop_token_ids")), service.voice.config.vocab_size
    if others and max(others) >= known:
        raise wrong("stop_token_ids", max(others), f"0 to {known - 1}")
    try:
        return GenerationOptions(
            max_new_tokens=limit,
            min_new_tokens=body.integer("min_tokens", 0, low=0, high=limit),
            do_sample=temperature > 0,
            temperature=temperature or 1.0,
            top_p=body.number("top_p", 1.0, low=0, high=1),
            top_k=max(0, body.integer("top_k", 0, low=-1)),
            repetition_penalty=body.number("repetition_penalty", 1.0, low=0),
            stop_token_ids=tuple(dict.fromkeys((*service.voice.ends, *others))),
        )
    except UserError as error:
        raise HttpError(400, str(error)) from None


def _read_stops(body: Body) -> list[str]:
    stops = body.texts("stop")
    if "" in stops:
        raise wrong("stop", "", "texts that are not empty")
    return stops


def _read_stream_options(body: Body, streams: bool) -> bool:
    options = body.get("stream_options", {})
    is_known = isinstance(options, dict) and set(options) <= {"include_usage"}
    if not is_known or not isinstance(options.get("include_usage", False), bool):
        raise wrong("stream_options", options, '{"include_usage": true or false}')
    if options and not streams:
        raise HttpError(400, "stream_options needs stream: true", param="stream_options")
    return bool(options.get("include_usage"))
