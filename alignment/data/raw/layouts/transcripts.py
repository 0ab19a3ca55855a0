"""Conversations in one string, as in hh-rlhf, and the detection of prompts that contain an answer."""

from __future__ import annotations

import re

from alignment.data.ledger import BROKEN_DIALOGUE, BadRow
from alignment.data.raw.layouts.turns import Message
from alignment.errors import DataError

_FORMS = (
    (re.compile(r"\s*Human:(?=.*\n\nAssistant:)", re.DOTALL), re.compile(r"\n\n(Human|Assistant):")),
    (re.compile(r"\s*### Human:(?=.*### Assistant:)", re.DOTALL), re.compile(r"### (Human|Assistant):")),
)
"""How a transcript begins, and the separator of its turns."""

_RENDERED = re.compile(
    r"\s*(<\|im_start\|>|<\|begin_of_text\|>|<\|start_header_id\|>|(<s>)?\s*\[INST\]|<\|user\|>|<\|system\|>"
    r"|(<bos>)?<start_of_turn>|USER:|BEGINNING OF CONVERSATION:|### Instruction:|Below is an instruction)"
)
_ANSWER = re.compile(
    r"<\|im_start\|>assistant|<\|start_header_id\|>assistant<\|end_header_id\|>|\[/INST\]|<\|assistant\|>"
    r"|<start_of_turn>model|ASSISTANT:|### Response:"
)
_QUESTION = re.compile(
    r"<\|im_start\|>user|<\|start_header_id\|>user|\[INST\]|<\|user\|>|<start_of_turn>user|USER:|### Instruction:"
)


def is_transcript(text: str) -> bool:
    """Tell whether ``text`` is a conversation between Human and Assistant."""
    head = text[:40].lstrip()
    return head.startswith(("Human:", "### Human:")) and any(begin.match(text) for begin, _ in _FORMS)


def lacks_answer(text: str) -> bool:
    """Tell whether ``text`` begins as a transcript but holds no turn of the assistant."""
    return text.lstrip().startswith(("Human:", "### Human:")) and not is_transcript(text)


def read_transcript(text: str, place: object) -> list[Message]:
    """Return the messages of a transcript; the last one may be an empty answer.

    Turns that do not alternate are a ``BadRow``: published datasets contain a few.
    """
    split = next(split for begin, split in _FORMS if begin.match(text))
    pieces = split.split("\n\n" + text.lstrip())
    roles = {"Human": "user", "Assistant": "assistant"}
    turns = zip(pieces[1::2], pieces[2::2], strict=True)
    messages = [{"role": roles[role], "content": content.strip()} for role, content in turns]
    if any(message["role"] != ("user", "assistant")[number % 2] for number, message in enumerate(messages)):
        raise BadRow(BROKEN_DIALOGUE, f"{place}: the turns of Human and Assistant do not alternate in {text!r:.80}")
    return messages


def check_prompt(text: str, place: object) -> None:
    """Refuse a prompt that is a rendered conversation ending with an answer."""
    if not _RENDERED.match(text):
        return
    ends = [found.end() for found in _ANSWER.finditer(text)]
    rest = text[ends[-1] :] if ends else ""
    if re.sub(r"<\|?[\w|]*\|?>|</s>", "", rest).strip() and not _QUESTION.search(rest):
        raise DataError(
            f"{place}: the prompt contains an answer (it ends with {text[-40:]!r}); name the column of the prompt"
        )
