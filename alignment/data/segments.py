"""Pieces of a rendered conversation, and what a chat template writes around its texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain, zip_longest
from typing import NamedTuple

from alignment.data.raw.conversation import TRAIN, Conversation, text_of


class Segment(NamedTuple):
    """A piece of rendered text."""

    text: str
    is_answer: bool
    """True: trained on; followed by the end token, which is not part of ``text``."""
    end: str = ""
    """The end token that the template writes after an answer; empty if it writes none."""


Render = Callable[[Conversation, bool], str]
"""Renders a conversation, with the generation prompt if the flag is True."""


class Skeleton(NamedTuple):
    """What a template writes around the texts of a conversation; usually the same for all with these roles."""

    pieces: tuple[str, ...]
    """The text before the first message's content, between contents, and after the last one."""
    headers: tuple[int, ...]
    """For each answer: number of characters before its content that are not in the prompt (such as ``<think>``)."""
    closings: tuple[int | None, ...]
    """For each answer: number of characters between its content and the end token; None if there is no end token."""

    @classmethod
    def of(cls, shape: Conversation, end: str, render: Render) -> Skeleton | None:
        """Find out what is written around the messages of ``shape`` by rendering marks in place of the texts.

        ``end`` is the end token of answers, or empty. None if the marks are not written exactly once each.
        """
        marks = [f"\ue000{number}\ue001" for number in range(len(shape.messages))]
        marked = Conversation(
            tuple({**message, "content": mark} for message, mark in zip(shape.messages, marks, strict=True))
        )
        text, pieces = render(marked, False), []
        for mark in marks:
            if text.count(mark) != 1:
                return None
            before, _, text = text.partition(mark)
            pieces.append(before)
        pieces.append(text)
        headers = [_header(marked, pieces, marks, number, render) for number in shape.targets]
        behind = [pieces[number + 1].partition(end) if end else ("", "", "") for number in shape.targets]
        # Words that the template adds before the end token are part of the answer, so there is no skeleton then.
        if None in headers or any(gap.strip() for gap, mark, _ in behind if mark):
            return None
        closings = [len(gap) if mark else None for gap, mark, _ in behind]
        return cls(tuple(pieces), tuple(headers), tuple(closings))

    def cut(self, whole: str, texts: Sequence[str], targets: Sequence[int], end: str) -> list[Segment] | None:
        """Return the segments of ``whole``; None if it is not exactly the pieces around ``texts``."""
        parts = [""] * (2 * len(texts) + 1)
        parts[::2], parts[1::2] = self.pieces, texts
        if whole != "".join(parts):
            return None
        segments, written, position, target = [], 0, 0, 0
        for number, text in enumerate(texts):
            position += len(self.pieces[number]) + len(text)
            if target < len(targets) and number == targets[target]:
                start, gap = position - len(text) - self.headers[target], self.closings[target]
                stop = position + (gap or 0)
                mark = end if gap is not None else ""
                segments += [Segment(whole[written:start], False), Segment(whole[start:stop], True, mark)]
                written, target = stop + len(mark), target + 1
        return [*segments, Segment(whole[written:], False)] if whole[written:] else segments


def shape_key(dialogue: Conversation) -> tuple[tuple[str, bool], ...] | None:
    """Return a key of the conversations that share a skeleton; None if there is more than plain texts."""
    if dialogue.tools:
        return None
    key = []
    for message in dialogue.messages:
        if len(message) > 2 + (TRAIN in message):
            return None
        key.append((message["role"], message.get(TRAIN, True)))
    return tuple(key)


def written_texts(dialogue: Conversation) -> list[list[str]]:
    """Return the texts as templates usually write them: unchanged, or stripped."""
    texts = [text_of(message) for message in dialogue.messages]
    stripped = [text.strip() for text in texts]
    return [texts] if texts == stripped else [texts, stripped]


def _header(
    marked: Conversation, pieces: Sequence[str], marks: Sequence[str], number: int, render: Render
) -> int | None:
    """Return the number of characters between the prompt and the answer's content; None if the prompt is rewritten."""
    before = "".join(chain.from_iterable(zip_longest(pieces[: number + 1], marks[:number], fillvalue="")))
    prompt = render(marked.before(number), True)
    return len(before) - len(prompt) if before.startswith(prompt) else None
