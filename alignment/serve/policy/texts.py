"""The text of an answer while it grows, up to a stop string."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from alignment.generation.live import Growth, Likeliest
from alignment.models.tokenizer.token_bytes import byte_alphabet
from alignment.models.tokenizer.tokenizer import Tokenizer

_UNFINISHED = "\ufffd"
"""What a tokenizer shows for the first bytes of a character."""
_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")
"""How sentencepiece calls a token that is one byte."""


def token_bytes(tokenizer: Tokenizer, token: int, text: str) -> list[int] | None:
    """Return the bytes of ``token``, shown as ``text``; None for an unknown part of a character."""
    if _UNFINISHED not in text:
        return list(text.encode())
    name, alphabet = tokenizer.id_to_token(token) or "", byte_alphabet()
    if (named := _BYTE_TOKEN.fullmatch(name)) is not None:
        return [int(named[1], 16)]
    return [alphabet[character] for character in name] if name and alphabet.keys() >= set(name) else None


class AnswerText:
    """Tokens and text of one answer."""

    def __init__(self, decode: Callable[[list[int]], str], stops: Sequence[str], *, is_streamed: bool) -> None:
        """The text ends before the first of ``stops``."""
        self._decode, self._stops = decode, tuple(stops)
        self._looks = is_streamed or bool(stops)
        self.tokens: list[int] = []
        self.logprobs: list[float] = []
        self.likeliest: list[Likeliest] = []
        self.finish_reason: str | None = None
        self.text = ""
        """The text that is certain."""

    def add(self, piece: Growth) -> str:
        """Add what is new, but for what comes after a stop string; return the text that has become certain."""
        before = len(self.text)
        if not self._stops:
            self._extend(piece, slice(None))
            self.finish_reason = piece.finish_reason
            self._read()
            return self.text[before:]
        for place in range(len(piece.tokens)):
            if self.finish_reason is None:
                self._extend(piece, slice(place, place + 1))
                is_last = place == len(piece.tokens) - 1
                self.finish_reason = piece.finish_reason if is_last else None
                self._read()
        return self.text[before:]

    def _extend(self, piece: Growth, places: slice) -> None:
        self.tokens += piece.tokens[places]
        self.logprobs += piece.logprobs[places]
        self.likeliest += piece.likeliest[places]

    def _read(self) -> None:
        if not self._looks and self.finish_reason is None:
            return
        text = self._decode(self.tokens)
        found = [place for place in (text.find(stop) for stop in self._stops) if place >= 0]
        if found:
            text, self.finish_reason = text[: min(found)], "stop"
        elif self.finish_reason is None:
            text = text[: len(text) - self._num_uncertain(text)]
        if len(text) > len(self.text):
            self.text = self.text + text[len(self.text) :]

    def _num_uncertain(self, text: str) -> int:
        """Return how many characters at the end may still change: unfinished ones, or the start of a stop string."""
        uncertain = len(text) - len(text.rstrip(_UNFINISHED))
        for stop in self._stops:
            for length in range(min(len(stop) - 1, len(text)), uncertain, -1):
                if text.endswith(stop[:length]):
                    uncertain = length
                    break
        return uncertain
