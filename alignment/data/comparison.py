"""Render two answers to a prompt as one question, which a language model answers with one of two letters."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from alignment.data.raw.conversation import Conversation, Given, conversation, text_of
from alignment.data.tokenizer import TokenizerLike, unknown_id
from alignment.errors import ArgumentError, DataError

if TYPE_CHECKING:
    from alignment.arguments.parser import Values
    from alignment.data.encode import Encoder

PLACES = ("{context}", "{response_A}", "{response_B}")
_TRIED = ("A", "B", "a", "b", "1", "2", "X", "Y", "yes", "no")
_SHOWN, _SEARCHED = 8, 2000


@dataclass(frozen=True, kw_only=True)
class PairQuestion:
    """How a pair is written and answered; the defaults are those of RLHFlow's pair-preference models."""

    template: str = "[CONTEXT] \n{context}\n [RESPONSE A] {response_A} [RESPONSE B] {response_B} \n"
    """The text of the question, with each of ``PLACES`` once."""
    turn: str = "\n<turn> {role}\n {content}"
    """The text of each turn of the context, with ``{content}`` once and ``{role}`` at most once."""
    letters: tuple[str, str] = ("A", "B")
    """The answer if the first response is better, and if the second one is; one token each."""

    @classmethod
    def of(cls, given: Any, recorded: Mapping[str, Any] | None = None) -> PairQuestion:
        """Return what the keys ``pairwise_*`` of the arguments ``given`` say, else what a model's folder ``recorded``,
        else the default.
        """
        keys = {"template": given.pairwise_template, "turn": given.pairwise_turn, "letters": given.pairwise_letters}
        merged = {**(recorded or {}), **{name: value for name, value in keys.items() if value is not None}}
        return cls.from_record(merged)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> PairQuestion:
        """Return the comparison of ``to_record``; ArgumentError if it cannot be used."""
        unknown = record.keys() - cls.__dataclass_fields__.keys()
        if unknown:
            raise ArgumentError(f"the record of a pairwise model has unknown fields: {', '.join(sorted(unknown))}")
        for name, value in record.items():
            expected, texts = ("two texts", value) if name == "letters" else ("a text", [value])
            if not (isinstance(texts, (list, tuple)) and all(isinstance(text, str) for text in texts)):
                raise ArgumentError(f"the {name} of a pairwise model must be {expected}, got {value!r:.80}")
        made = cls(**{name: tuple(value) if name == "letters" else value for name, value in record.items()})
        problem = next(problems(made.template, made.turn, made.letters), None)
        if problem is not None:
            raise ArgumentError(problem)
        return made

    def to_record(self) -> dict[str, Any]:
        """Return JSON data for config.json."""
        return {**asdict(self), "letters": list(self.letters)}

    def question(self, asked: Given | Conversation, first: str, second: str) -> str:
        """Return the text of the question; a conversation with tools is a DataError, as a text cannot show them."""
        asked = conversation(asked)
        if asked.tools or any(message.get("tool_calls") for message in asked.messages):
            raise DataError("a pairwise model reads texts, and this conversation has tools")
        turns = [fill(self.turn, {"{role}": m["role"], "{content}": text_of(m)}) for m in asked.messages]
        return fill(self.template, dict(zip(PLACES, ("".join(turns), first, second), strict=True)))

    def encode(self, encoder: Encoder, asked: Given | Conversation, first: str, second: str) -> list[int]:
        """Return the ids of the question with the encoder's template, up to where the letter follows."""
        return encoder.encode_prompt(self.question(asked, first, second)).ids

    def letter_ids(self, tokenizer: TokenizerLike) -> tuple[int, int]:
        """Return the ids of both letters; ArgumentError, with words that would do, unless each is one known token."""
        first, second = map(partial(_ids, tokenizer), self.letters)
        unknown = unknown_id(tokenizer)
        for letter, ids in zip(self.letters, (first, second), strict=True):
            if len(ids) != 1 or ids[0] == unknown:
                how = "unknown to the tokenizer" if unknown in ids else f"{len(ids)} tokens"
                raise ArgumentError(
                    f"pairwise_letters={' '.join(self.letters)}: {letter!r} is {how}, and the answer to a comparison "
                    f"is one token. Single tokens are, for example, {', '.join(islice(_single(tokenizer), _SHOWN))}"
                )
        if first == second:
            raise ArgumentError(f"pairwise_letters={' '.join(self.letters)}: both are the same token")
        return first[0], second[0]


def fill(template: str, texts: Mapping[str, str]) -> str:
    """Return ``template`` with each placeholder replaced; placeholders inside the texts stay as they are."""
    pattern = "|".join(map(re.escape, texts))
    return re.sub(pattern, lambda found: texts[found.group()], template)


def problems(template: str | None, turn: str | None, letters: Sequence[str] | None) -> Iterator[str]:
    """Yield what is wrong with the values of the keys ``pairwise_*``; None: not given."""
    for place in PLACES if template is not None else ():
        if template.count(place) != 1:
            yield f"pairwise_template={template!r} must contain {place} once, and does {template.count(place)} times"
    if turn is not None and turn.count("{content}") != 1:
        yield f"pairwise_turn={turn!r} must contain {{content}} once, and does {turn.count('{content}')} times"
    if letters is not None and (len(letters) != 2 or letters[0] == letters[1]):
        yield f"pairwise_letters={' '.join(letters)} must be two different words, such as A B"


def check_comparison(v: Values) -> Iterator[str]:
    """Check the keys ``pairwise_*``."""
    yield from problems(v.pairwise_template, v.pairwise_turn, v.pairwise_letters)


def check_overlong(v: Values) -> Iterator[str]:
    """Check that rows of a pairwise model are not truncated."""
    if v.on_overlong in ("left", "right"):
        yield (
            f"on_overlong={v.on_overlong} would cut the context, an answer or the place of the letter off a comparison "
            "(allowed: drop, error)"
        )


def _ids(tokenizer: TokenizerLike, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _single(tokenizer: TokenizerLike) -> Iterator[str]:
    """Yield words that are one token each: usual letters, then words of the vocabulary."""
    unknown = unknown_id(tokenizer)
    words = [tokenizer.decode([i], skip_special_tokens=True).strip() for i in range(min(len(tokenizer), _SEARCHED))]
    for word in dict.fromkeys([*_TRIED, *filter(str.isalnum, words)]):
        ids = _ids(tokenizer, word)
        if len(ids) == 1 and ids[0] != unknown:
            yield word
