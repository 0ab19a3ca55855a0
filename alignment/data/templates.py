"""Conversations to text: the classic PKU template, or the tokenizer's own chat template.

A conversation is a list of turns, the user's first, then in alternation. A template renders it to segments that
concatenate to the whole text; the segments of the assistant are what a model is trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from alignment.data.tokenizer import Tokenizer
from alignment.errors import DataError, UserError

PROMPT_BEGIN = "BEGINNING OF CONVERSATION: "
PROMPT_USER = "USER: {input} "
PROMPT_ASSISTANT = "ASSISTANT:"

TEMPLATES = ("pku", "tokenizer")


class Segment(NamedTuple):
    """A piece of rendered text."""

    text: str
    is_answer: bool
    """True: written by the assistant; an EOS token follows it (not part of ``text``)."""


class Template(Protocol):
    """Renders turns to text; ``adds_special_tokens`` tells whether the tokenizer adds its own (BOS) to that text."""

    adds_special_tokens: bool

    def render_prompt(self, turns: Sequence[str]) -> str:
        """Return the text up to where the assistant's next turn begins; ``turns`` ends with the user's."""

    def render_answer(self, turns: Sequence[str], answer: str) -> str:
        """Return the text of ``answer`` after ``render_prompt(turns)``, without EOS."""


class PkuTemplate:
    """The template of safe-rlhf: the answer follows ``ASSISTANT:`` directly, EOS ends each answer."""

    adds_special_tokens = True

    def __init__(self, eos_token: str) -> None:
        self._eos_token = eos_token

    def render_prompt(self, turns: Sequence[str]) -> str:
        """Return ``BEGINNING OF CONVERSATION: USER: a ASSISTANT:b</s>USER: c ASSISTANT:``."""
        pieces = [PROMPT_BEGIN]
        for number, turn in enumerate(turns):
            is_user = number % 2 == 0
            pieces.append(PROMPT_USER.format(input=turn) + PROMPT_ASSISTANT if is_user else turn + self._eos_token)
        return "".join(pieces)

    def render_answer(self, turns: Sequence[str], answer: str) -> str:
        """Return ``answer`` itself."""
        return answer


class ChatTemplate:
    """The tokenizer's own chat template, which writes BOS itself."""

    adds_special_tokens = False

    def __init__(self, tokenizer: Tokenizer) -> None:
        if not tokenizer.chat_template:
            raise DataError(
                "chat_template=tokenizer, but the tokenizer has no chat template; add one to its "
                "tokenizer_config.json, or use the classic template (chat_template=none)"
            )
        self._tokenizer = tokenizer

    def render_prompt(self, turns: Sequence[str]) -> str:
        """Return the chat template's text with its generation prompt."""
        return self._render(turns, add_generation_prompt=True)

    def render_answer(self, turns: Sequence[str], answer: str) -> str:
        """Return what the template writes for ``answer`` up to its EOS token.

        Some templates rewrite earlier turns, so that the longer text does not continue the shorter one; then the
        answer is taken as it is, which is also what generation continues with.
        """
        prompt = self.render_prompt(turns)
        whole = self._render([*turns, answer], add_generation_prompt=False)
        if not whole.startswith(prompt):
            return answer
        before, found, _ = whole[len(prompt) :].rpartition(self._tokenizer.eos_token)
        return before if found else whole[len(prompt) :]

    def _render(self, turns: Sequence[str], *, add_generation_prompt: bool) -> str:
        roles = ("user", "assistant")
        messages = [{"role": roles[number % 2], "content": turn} for number, turn in enumerate(turns)]
        try:
            return self._tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=add_generation_prompt
            )
        except UserError:
            raise
        except Exception as error:  # a template is foreign code: whatever it raises is about this conversation
            raise DataError(f"the chat template refuses {messages!r:.300}: {type(error).__name__}: {error}") from error


def open_template(name: str, tokenizer: Tokenizer) -> Template:
    """Return the template called ``name`` (one of ``TEMPLATES``)."""
    if name not in TEMPLATES:
        raise DataError(f"unknown template {name!r} (allowed: {', '.join(TEMPLATES)})")
    return PkuTemplate(tokenizer.eos_token) if name == "pku" else ChatTemplate(tokenizer)


def format_prompt(value: str | Sequence[str], eos_token: str) -> str:
    """Render an ``input`` (text, or turns ending with the user's) with the PKU template."""
    return PkuTemplate(eos_token).render_prompt([value] if isinstance(value, str) else value)


def render_dialogue(template: Template, turns: Sequence[str], eos_token: str) -> list[Segment]:
    """Return prompt and answer segments in alternation for a dialogue that ends with the assistant's turn.

    A chat template that does not continue its own shorter text cannot be cut into turns: ``DataError``.
    """
    segments: list[Segment] = []
    written = ""
    for end in range(1, len(turns), 2):
        prompt = template.render_prompt(turns[:end])
        if not prompt.startswith(written):
            raise DataError(
                "the chat template changes earlier turns as a conversation grows, so multi-turn dialogues cannot be "
                "trained on with it; use template 'pku' or single turns"
            )
        answer = template.render_answer(turns[:end], turns[end])
        segments += [Segment(prompt[len(written) :], False), Segment(answer, True)]
        written = prompt + answer + eos_token
    return segments
