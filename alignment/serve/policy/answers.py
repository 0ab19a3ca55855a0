"""Answers in the form of OpenAI's interface, whole or as the events of a stream."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from alignment.generation.live import Growth, Likeliest
from alignment.serve.answers import HttpError
from alignment.serve.policy.service import PolicyService
from alignment.serve.policy.texts import AnswerText, token_bytes
from alignment.serve.policy.wanted import Wanted


class Answering:
    """The answers to one request, of one kind."""

    def __init__(self, service: PolicyService, name: str, wanted: Wanted, *, is_chat: bool) -> None:
        self._service, self._wanted, self._is_chat = service, wanted, is_chat
        kind = "chat.completion" if is_chat else "text_completion"
        self._head = {
            "id": f"{'chatcmpl' if is_chat else 'cmpl'}-{uuid.uuid4().hex}",
            "object": f"{kind}.chunk" if is_chat and wanted.streams else kind,
            "created": int(time.time()),
            "model": name,
        }
        decode = service.voice.tokenizer.decode
        count = len(wanted.ask.prompts)
        self._texts = [AnswerText(decode, wanted.stops, is_streamed=wanted.streams) for _ in range(count)]

    @property
    def num_generated(self) -> int:
        """Tokens of the answers so far."""
        return sum(len(text.tokens) for text in self._texts)

    @property
    def _tells_tokens(self) -> bool:
        return self._wanted.tells_ids or self._wanted.logprobs is not None

    async def whole(self) -> dict[str, Any]:
        """Return the object with all answers."""
        async for _ in self._grown():
            pass
        choices = [self._choice(index) for index in range(len(self._texts))]
        return {**self._shared, "seed": self._wanted.ask.seed, "choices": choices, "usage": self._usage()}

    async def events(self) -> AsyncIterator[str]:
        """Yield the events of a stream; an error is one, too."""
        try:
            is_open = False
            async for index, new, first in self._grown():
                for event in [] if is_open else self._openings():
                    yield event
                is_open = True
                if new or self._texts[index].finish_reason or self._tells_tokens:
                    yield self._event([self._delta(index, new, first)])
            if self._wanted.tells_usage:
                yield self._event([], usage=self._usage())
        except HttpError as error:
            yield f"data: {json.dumps(error.content())}\n\n"
        yield "data: [DONE]\n\n"

    @property
    def _shared(self) -> dict[str, Any]:
        """What is told of all answers; the weights are known from the first token on."""
        return {**self._head, "system_fingerprint": self._wanted.ask.weights}

    def _openings(self) -> Iterator[str]:
        """Yield the events before the first token of any answer."""
        for index in range(len(self._texts)):
            if self._is_chat:
                yield self._event([{"index": index, "delta": {"role": "assistant", "content": ""}}])
            elif self._wanted.echoes:
                yield self._event([{"index": index, "text": self._prompt(index), "logprobs": None}])

    async def _grown(self) -> AsyncIterator[tuple[int, str, int]]:
        """Yield (answer, new text, number of its tokens before) for every piece until all answers have ended."""
        each = self._wanted.streams or bool(self._wanted.stops)
        pieces = self._service.answer(self._wanted.ask, each=each)
        try:
            async for piece in pieces:
                grown = self._add(piece)
                if grown is not None:
                    yield grown
                if all(text.finish_reason for text in self._texts):
                    break
        finally:
            await pieces.aclose()

    def _add(self, piece: Growth) -> tuple[int, str, int] | None:
        """Return None for tokens after a stop string."""
        text = self._texts[piece.choice]
        if text.finish_reason is not None:
            return None
        first = len(text.tokens)
        return piece.choice, text.add(piece), first

    def _event(self, choices: list[dict[str, Any]], **others: Any) -> str:
        for choice in choices:
            choice.setdefault("finish_reason", None)
        return f"data: {json.dumps({**self._shared, 'choices': choices, **others}, ensure_ascii=False)}\n\n"

    def _delta(self, index: int, new: str, first: int) -> dict[str, Any]:
        said = {"delta": {"content": new}} if self._is_chat else {"text": new}
        return {"index": index, **said, **self._told(index, first)}

    def _choice(self, index: int) -> dict[str, Any]:
        text = self._texts[index].text
        if self._is_chat:
            return {"index": index, "message": {"role": "assistant", "content": text}, **self._told(index, 0)}
        echoed = self._prompt(index) if self._wanted.echoes else ""
        return {"index": index, "text": echoed + text, **self._told(index, 0)}

    def _told(self, index: int, first: int) -> dict[str, Any]:
        """Return what stands beside the text of an answer from token ``first`` on."""
        answer, wanted = self._texts[index], self._wanted
        told: dict[str, Any] = {"logprobs": None, "finish_reason": answer.finish_reason}
        if wanted.logprobs is not None:
            told["logprobs"] = self._chat_logprobs(answer, first) if self._is_chat else self._logprobs(answer, first)
        if wanted.tells_ids:
            told["token_ids"] = answer.tokens[first:]
            if first == 0:
                told["prompt_token_ids"] = wanted.prompt_ids[index // wanted.n]
        return told

    def _logprobs(self, answer: AnswerText, first: int) -> dict[str, Any]:
        shown = [self._show(token) for token in answer.tokens]
        offsets, place = [], 0
        for text in shown:
            offsets.append(place)
            place += len(text)
        return {
            "tokens": shown[first:],
            "token_logprobs": answer.logprobs[first:],
            "top_logprobs": [
                {self._show(token): logprob for token, logprob in reversed(likeliest)}
                for likeliest in answer.likeliest[first:]
            ]
            or None,
            "text_offset": offsets[first:],
        }

    def _chat_logprobs(self, answer: AnswerText, first: int) -> dict[str, Any]:
        likeliest: Sequence[Likeliest] = answer.likeliest or [()] * len(answer.tokens)
        rows = zip(answer.tokens[first:], answer.logprobs[first:], likeliest[first:], strict=True)
        content = [
            {**self._token(token, logprob), "top_logprobs": [self._token(*pair) for pair in pairs]}
            for token, logprob, pairs in rows
        ]
        return {"content": content, "refusal": None}

    def _token(self, token: int, logprob: float) -> dict[str, Any]:
        text = self._show(token)
        found = token_bytes(self._service.voice.tokenizer, token, text)
        return {"token": text, "logprob": logprob, "bytes": found}

    def _show(self, token: int) -> str:
        return self._service.voice.tokenizer.decode([token], skip_special_tokens=False)

    def _prompt(self, index: int) -> str:
        return self._wanted.prompt_texts[index // self._wanted.n]

    def _usage(self) -> dict[str, int]:
        prompts, generated = sum(map(len, self._wanted.prompt_ids)), self.num_generated
        return {"prompt_tokens": prompts, "completion_tokens": generated, "total_tokens": prompts + generated}
