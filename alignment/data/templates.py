"""Render conversations to text: with plain text around the user's (the PKU template), or with a chat template.

A template renders a conversation to segments that concatenate to the whole text; the assistant's segments are trained
on. Each of them ends with one token, the template's ``end``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, Protocol

from alignment.data.raw.conversation import TRAIN, Conversation, conversation, text_of
from alignment.data.segments import Segment, Skeleton, shape_key, written_texts
from alignment.data.tokenizer import TokenizerLike
from alignment.errors import DataError, UserError

TEMPLATES = ("pku", "tokenizer")
"""Named templates; a text with one ``{}``, in place of each user text, is a template too."""

MOST_SKELETONS = 1000

_MARK = "\ue000answer\ue001"
"""Placeholder for an answer, to find out what a template writes around it."""


class Template(Protocol):
    """Renders conversations to text."""

    adds_special_tokens: bool
    """True: the tokenizer adds its special tokens (BOS) to the text."""

    @property
    def end(self) -> str:
        """The token that ends an assistant turn."""

    def render_prompt(self, asked: Conversation) -> str:
        """Return the text up to where the assistant's next turn begins."""

    def render_answer(self, asked: Conversation, prompt: str, answer: str) -> str:
        """Return the text of ``answer`` after ``prompt``, which is ``render_prompt(asked)``, without the end token."""

    def render_dialogue(self, dialogue: Conversation) -> list[Segment]:
        """Return the whole text in segments: one answer for each of ``dialogue.targets``, and the text in between."""


@dataclass(frozen=True)
class PlainTemplate:
    """Fixed text around each user text; the answer follows directly, and ``end`` closes it."""

    begin: str
    """Text at the start."""
    before: str
    """Text before each user text."""
    behind: str
    """Text after each user text."""
    end: str = ""

    adds_special_tokens: ClassVar[bool] = True

    def ending_with(self, end: str) -> PlainTemplate:
        """Return this template with another end token."""
        return replace(self, end=end)

    def render_prompt(self, asked: Conversation) -> str:
        """Return, for example, ``BEGINNING OF CONVERSATION: USER: a ASSISTANT:b</s>USER: c ASSISTANT:``."""
        return "".join(segment.text + segment.end for segment in self._segments(asked, targets=set()))

    def render_answer(self, asked: Conversation, prompt: str, answer: str) -> str:
        """Return ``answer`` itself."""
        return answer

    def render_dialogue(self, dialogue: Conversation) -> list[Segment]:
        """Return the segments; see ``Template``."""
        return self._segments(dialogue, targets=set(dialogue.targets))

    def _segments(self, rendered: Conversation, *, targets: set[int]) -> list[Segment]:
        segments, text = [], self.begin
        for number, turn in enumerate(_plain_turns(rendered)):
            if number in targets:
                segments += [Segment(text, False), Segment(turn, True, self.end)]
                text = ""
            else:
                text += turn + self.end if number % 2 else self.before + turn + self.behind
        return [*segments, Segment(text, False)] if text else segments


PKU = PlainTemplate("BEGINNING OF CONVERSATION: ", "USER: ", " ASSISTANT:")
"""The classic template, that of safe-rlhf."""


class TokenizerTemplate:
    """The tokenizer's own chat template, which writes BOS itself."""

    adds_special_tokens = False

    def __init__(self, tokenizer: TokenizerLike) -> None:
        if not tokenizer.chat_template:
            raise DataError(
                "chat_template=tokenizer, but the tokenizer has no chat template; add one to its "
                "tokenizer_config.json, or use the classic template (chat_template=none)"
            )
        self._tokenizer = tokenizer
        self._skeletons: dict[tuple[tuple[str, bool], ...], Skeleton | None] = {}

    @property
    def end(self) -> str:
        """The first special token that the template writes after an answer; the tokenizer's EOS if it writes none.

        It need not be EOS: chat models often end turns with a token of their own.
        """
        return self._written_end or self._tokenizer.eos_token

    @cached_property
    def _written_end(self) -> str:
        try:
            whole = self._render(conversation(["a", _MARK]), add_generation_prompt=False)
        except DataError:  # the template may refuse such a simple conversation and still accept real ones
            return self._tokenizer.eos_token
        behind = whole.rpartition(_MARK)[2]
        for token in self._tokenizer(behind, add_special_tokens=False)["input_ids"] if behind.strip() else ():
            text = self._tokenizer.decode([token], skip_special_tokens=False)
            if text.strip() and not self._tokenizer.decode([token], skip_special_tokens=True):
                return text.strip()
        return self._tokenizer.eos_token if self._tokenizer.eos_token in behind else ""

    def render_prompt(self, asked: Conversation) -> str:
        """Return the rendered text with the generation prompt."""
        return self._render(asked, add_generation_prompt=True)

    def render_answer(self, asked: Conversation, prompt: str, answer: str) -> str:
        """Return what the template writes for ``answer``, up to its end token.

        Some templates rewrite earlier turns, so that the longer text does not begin with the prompt; then the answer is
        returned unchanged, as generation would continue the prompt.
        """
        whole = self._render(asked.answered(answer), add_generation_prompt=False)
        if not whole.startswith(prompt):
            return answer
        return whole[len(prompt) : self._find_end(whole, len(prompt), len(whole), answer)[0]]

    def render_dialogue(self, dialogue: Conversation) -> list[Segment]:
        """Return the segments of the whole rendered dialogue; see ``Template``."""
        whole = self._render(dialogue, add_generation_prompt=False)
        return self._cut_known(dialogue, whole) or self._cut_by_prompts(dialogue, whole)

    def _cut_known(self, dialogue: Conversation, whole: str) -> list[Segment] | None:
        """Cut ``whole`` with the skeleton for these roles; None if it does not match."""
        key = shape_key(dialogue)
        if key is None:
            return None
        if key not in self._skeletons and len(self._skeletons) < MOST_SKELETONS:
            self._skeletons[key] = self._skeleton(dialogue)
        skeleton = self._skeletons.get(key)
        if skeleton is None:
            return None
        for texts in written_texts(dialogue):
            segments = skeleton.cut(whole, texts, dialogue.targets, self._written_end)
            if segments is not None:
                return segments
        return None

    def _skeleton(self, dialogue: Conversation) -> Skeleton | None:
        try:
            return Skeleton.of(
                dialogue,
                self._written_end,
                lambda part, is_prompt: self._render(part, add_generation_prompt=is_prompt),
            )
        except DataError:  # the template refuses placeholder texts; real ones are rendered without a skeleton
            return None

    def _cut_by_prompts(self, dialogue: Conversation, whole: str) -> list[Segment]:
        """Cut ``whole`` where the prompt of each answer ends."""
        starts: list[int] = []
        for number in dialogue.targets:
            starts.append(self._find_start(whole, starts[-1] if starts else 0, dialogue, number))
        segments, written = [], 0
        for number, start, limit in zip(dialogue.targets, starts, [*starts[1:], len(whole)], strict=True):
            stop, end = self._find_end(whole, start, limit, text_of(dialogue.messages[number]))
            segments += [Segment(whole[written:start], False), Segment(whole[start:stop], True, end)]
            written = stop + len(end)
        return [*segments, Segment(whole[written:], False)] if whole[written:] else segments

    def _find_start(self, whole: str, written: int, dialogue: Conversation, number: int) -> int:
        """Return where message ``number`` begins in ``whole``: where its prompt ends, or where its text is found."""
        asked = dialogue.before(number)
        prompt = self._render(asked, add_generation_prompt=True)
        if whole.startswith(prompt) and len(prompt) >= written:
            return len(prompt)
        marked = {**dialogue.messages[number], "content": _MARK}
        others = dialogue.messages[:number], dialogue.messages[number + 1 :]
        text = self._render(replace(dialogue, messages=(*others[0], marked, *others[1])), add_generation_prompt=False)
        start = text.find(_MARK)
        if start < written or text[:start] != whole[:start]:
            raise DataError(
                f"message {number} cannot be located in the conversation as the chat template renders it, so it cannot "
                'be trained on; give it "train": false, or use single turns'
            )
        # A space before the answer belongs to it, as it does when the prompt ends without one.
        return max(written, len(whole[:start].rstrip(" ")))

    def _find_end(self, whole: str, start: int, limit: int, content: str) -> tuple[int, str]:
        """Return where the answer that begins at ``start`` ends, and the end token written there (or an empty text).

        ``limit`` is where the next answer begins. End tokens inside ``content`` are skipped.
        """
        stop, end = start, self._written_end
        for _ in range(content.count(end) + 1 if end else 0):
            stop = whole.find(end, stop, limit)
            if stop < 0:
                break
            stop += len(end)
        if end and stop >= 0:
            return stop - len(end), end
        said = content if whole.startswith(content, start) else content.strip()
        found = whole.find(said, start, limit)
        return (found + len(said) if found >= 0 else limit), ""

    def _render(self, rendered: Conversation, *, add_generation_prompt: bool) -> str:
        messages = [
            {key: value for key, value in message.items() if key != TRAIN} if TRAIN in message else dict(message)
            for message in rendered.messages
        ]
        tools = {"tools": list(rendered.tools)} if rendered.tools else {}
        try:
            return self._tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=add_generation_prompt, **tools
            )
        except DataError as error:
            raise DataError(f"{error}. {_ANOTHER}") from error
        except UserError:
            raise
        except Exception as error:  # a template is a user's code and may raise anything
            said = f"{type(error).__name__}: {error}"
            raise DataError(f"the chat template refuses {messages!r:.300}: {said}. {_ANOTHER}") from error


_ANOTHER = "To use another template, set tokenizer_chat_template"


def is_template(name: str) -> bool:
    """Tell whether ``name`` is one of ``TEMPLATES`` or a text with one ``{}``."""
    return name in TEMPLATES or name.count("{}") == 1


def template_name(given: str) -> str:
    """Return the internal name of a template given in arguments or a model folder: ``none`` is ``pku``."""
    return "pku" if given == "none" else given


def open_template(name: str, tokenizer: TokenizerLike) -> Template:
    """Return the template ``name``; see ``is_template``."""
    if not is_template(name):
        raise DataError(f"unknown template {name!r} (allowed: {', '.join(TEMPLATES)}, or a text with one {{}})")
    if name == "tokenizer":
        return TokenizerTemplate(tokenizer)
    if name == "pku":
        return PKU.ending_with(tokenizer.eos_token)
    return PlainTemplate("", *name.split("{}"), end=tokenizer.eos_token)


def _plain_turns(rendered: Conversation) -> Sequence[str]:
    """Return the texts of alternating user and assistant turns; a plain template supports no others."""
    hint = "use chat_template=tokenizer with a tokenizer that has one"
    if rendered.tools or any(message.get("tool_calls") for message in rendered.messages):
        raise DataError(f"a plain template (chat_template=none or input_template) does not support tools; {hint}")
    for number, message in enumerate(rendered.messages):
        expected = ("user", "assistant")[number % 2]
        if message["role"] != expected:
            raise DataError(
                f"message {number} has role {message['role']!r} where a plain template (chat_template=none or "
                f"input_template) expects {expected!r}, as it supports no other order; {hint}"
            )
    return [text_of(message) for message in rendered.messages]
