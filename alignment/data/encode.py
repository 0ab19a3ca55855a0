"""Conversations to token ids whose spans are known: which tokens are prompt and which are answer.

The boundary is found in token ids, not in characters: the ids of the prompt alone must begin the ids of prompt plus
answer. Where a tokenizer merges across the boundary, the answer is tokenised by itself and the row is counted, so a
training mask never shifts by a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from alignment.data.templates import TEMPLATES, open_template, render_dialogue
from alignment.data.tokenizer import Tokenizer
from alignment.errors import ArgumentError

ON_OVERLONG = ("drop", "left", "right", "error")
ON_BAD_ROW = ("drop", "error")


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeOptions:
    """How rows become token ids, and what happens to those that cannot."""

    max_length: int = 512
    """Tokens of prompt, answer and EOS together (of the prompt for prompt-only data)."""
    max_prompt_length: int | None = None
    """Tokens of the prompt; None: only ``max_length`` counts."""
    on_overlong: str = "drop"
    """``drop`` the row, cut the prompt's ``left``, cut the ``right`` end (EOS is lost), or stop with an ``error``."""
    on_bad_row: str = "drop"
    """``drop`` empty, identical, tied and contradictory rows, or stop with an ``error``."""
    template: str = "pku"
    """``pku`` or ``tokenizer`` (the tokenizer's own chat template)."""
    min_answer_tokens: int = 1
    """Shorter answers (EOS not counted) are bad rows."""

    def __post_init__(self) -> None:
        for name, allowed in (("on_overlong", ON_OVERLONG), ("on_bad_row", ON_BAD_ROW), ("template", TEMPLATES)):
            if getattr(self, name) not in allowed:
                raise ArgumentError(f"{name} is {getattr(self, name)!r} (allowed: {', '.join(allowed)})")
        for name, lowest in (("max_length", 2), ("max_prompt_length", 1), ("min_answer_tokens", 0)):
            value = getattr(self, name)
            if value is not None and value < lowest:
                raise ArgumentError(f"{name} is {value} (allowed: {lowest} or more)")


class Prompt(NamedTuple):
    """A rendered and tokenised prompt."""

    turns: tuple[str, ...]
    text: str
    ids: list[int]


class Answer(NamedTuple):
    """A tokenised answer."""

    ids: list[int]
    """Ends with EOS."""
    retokenized: bool
    """True: prompt and answer had to be tokenised apart."""


class Dialogue(NamedTuple):
    """A tokenised dialogue: the first user turn, then everything after it."""

    prompt_ids: list[int]
    body_ids: list[int]
    body_targets: list[bool]
    """True: the token belongs to an assistant turn (its EOS included)."""
    retokenized: bool


class Encoder:
    """One tokenizer with one template."""

    def __init__(self, tokenizer: Tokenizer, template: str) -> None:
        self._tokenizer = tokenizer
        self._template = open_template(template, tokenizer)
        self._eos_id = int(tokenizer.eos_token_id)
        # Some tokenizers close every text with EOS when they add special tokens; a prompt must stay open.
        self._closes_text = list(tokenizer("a", add_special_tokens=True)["input_ids"])[-1:] == [self._eos_id]

    def encode_prompt(self, turns: Sequence[str]) -> Prompt:
        """Tokenise turns that end with the user's, up to where the answer begins."""
        text = self._template.render_prompt(turns)
        return Prompt(tuple(turns), text, self._tokenize(text, special=self._template.adds_special_tokens))

    def encode_answer(self, prompt: Prompt, answer: str) -> Answer:
        """Tokenise ``answer`` as it follows ``prompt``; EOS is appended once, as an id."""
        ids, retokenized = self._continue(prompt.text, prompt.ids, self._template.render_answer(prompt.turns, answer))
        return Answer(self._with_eos(ids), retokenized)

    def encode_dialogue(self, turns: Sequence[str]) -> Dialogue:
        """Tokenise user and assistant turns in alternation; every assistant turn with its EOS is a target."""
        first, *rest = render_dialogue(self._template, turns, self._tokenizer.eos_token)
        text, ids = first.text, self._tokenize(first.text, special=self._template.adds_special_tokens)
        num_prompt, targets, any_retokenized = len(ids), [], False
        for segment in rest:
            new_ids, retokenized = self._continue(text, ids, segment.text)
            new_ids = self._with_eos(new_ids) if segment.is_answer else new_ids
            text += segment.text + (self._tokenizer.eos_token if segment.is_answer else "")
            ids = ids + new_ids
            targets += [segment.is_answer] * len(new_ids)
            any_retokenized |= retokenized
        return Dialogue(ids[:num_prompt], ids[num_prompt:], targets, any_retokenized)

    def count_content(self, answer_ids: Sequence[int]) -> int:
        """Return the number of answer tokens without the closing EOS."""
        return len(answer_ids) - int(bool(answer_ids) and answer_ids[-1] == self._eos_id)

    def _continue(self, text: str, ids: list[int], piece: str) -> tuple[list[int], bool]:
        """Return the ids of ``piece`` after ``text`` (whose ids are known), and whether it had to stand alone."""
        joint = self._tokenize(text + piece, special=self._template.adds_special_tokens)
        if joint[: len(ids)] == ids and self._is_faithful(text, ids):
            return joint[len(ids) :], False
        return self._tokenize(piece, special=False), True

    def _is_faithful(self, text: str, ids: list[int]) -> bool:
        """Tell whether the last token stands for the end of ``text``.

        An unknown-word token does not: ``ASSISTANT:`` and ``ASSISTANT:yes`` may both become ``<unk>``, and the answer's
        first word would be lost without the ids telling.
        """
        return text.rstrip().endswith(self._tokenizer.decode(ids[-1:], skip_special_tokens=False).strip())

    def _with_eos(self, ids: list[int]) -> list[int]:
        end = len(ids)
        while end and ids[end - 1] == self._eos_id:
            end -= 1
        return [*ids[:end], self._eos_id]

    def _tokenize(self, text: str, *, special: bool) -> list[int]:
        ids = [int(token) for token in self._tokenizer(text, add_special_tokens=special)["input_ids"]]
        return ids[:-1] if special and self._closes_text else ids
