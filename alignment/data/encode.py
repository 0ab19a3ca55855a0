"""Tokenise conversations, keeping track of which tokens are prompt and which are answer.

The boundary is found in token ids, not in characters: the ids of the prompt alone must be a prefix of the ids of prompt
plus answer. Where a tokenizer merges across the boundary, the answer is tokenised separately and the row is counted, so
a training mask is never off by a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

from alignment.data.comparison import PairQuestion
from alignment.data.raw.conversation import Conversation, Given, conversation
from alignment.data.segments import Segment
from alignment.data.templates import TEMPLATES, is_template, open_template
from alignment.data.tokenizer import CuttingTokenizer, TokenizerLike, unknown_id
from alignment.errors import ArgumentError

ON_OVERLONG = ("drop", "left", "right", "error")
ON_BAD_ROW = ("drop", "error")
TARGETS = ("assistant", "last", "all", "text")


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeOptions:
    """How rows are tokenised, and what happens to unusable ones."""

    max_length: int = 512
    """Maximum tokens of prompt, answer and EOS together (of the prompt for prompt-only data)."""
    max_prompt_length: int | None = None
    """Maximum tokens of the prompt; None: only ``max_length`` applies."""
    unanswerable: range = range(0)
    """Lengths of prompts that are too long although longer ones are not (``DecoderConfig.unanswerable``)."""
    on_overlong: str = "drop"
    """``drop`` the row, truncate the prompt ``left`` or the sequence ``right`` (loses EOS), or raise an ``error``."""
    on_bad_row: str = "drop"
    """``drop`` empty, identical, tied and contradictory rows, or raise an ``error``."""
    template: str = "pku"
    """``pku``, ``tokenizer`` (the tokenizer's chat template), or a text such as ``User: {}\\nAssistant: ``."""
    min_answer_tokens: int = 1
    """Rows with shorter answers (EOS not counted) are bad rows."""

    targets: str = "assistant"
    """What a supervised row trains on: every ``assistant`` turn, the ``last`` one, ``all`` tokens, or all tokens of
    its plain ``text`` without a template."""
    comparison: PairQuestion | None = None
    """How a pair of answers is put to a pairwise model; None: there is none."""

    keeps_duplicates: bool = False
    """Whether all of several equal prompts are used (prompt-only data)."""

    step_token: str = ""
    """The text of the token that ends every step of an answer (process rewards)."""
    reward_tokens: tuple[str, ...] = ("+", "-")
    """The texts of the labels of a good and a bad step."""

    def __post_init__(self) -> None:
        for name, allowed in (("on_overlong", ON_OVERLONG), ("on_bad_row", ON_BAD_ROW), ("targets", TARGETS)):
            if getattr(self, name) not in allowed:
                raise ArgumentError(f"{name} is {getattr(self, name)!r} (allowed: {', '.join(allowed)})")
        if not is_template(self.template):
            allowed = ", ".join(TEMPLATES)
            raise ArgumentError(f"template is {self.template!r} (allowed: {allowed}, or a text with one {{}})")
        for name, lowest in (("max_length", 2), ("max_prompt_length", 1), ("min_answer_tokens", 0)):
            value = getattr(self, name)
            if value is not None and value < lowest:
                raise ArgumentError(f"{name} is {value} (allowed: {lowest} or more)")


class Prompt(NamedTuple):
    """A rendered and tokenised prompt."""

    asked: Conversation
    text: str
    ids: list[int]


class Answer(NamedTuple):
    """A tokenised answer."""

    ids: list[int]
    """Ends with the template's end token."""
    retokenized: bool
    """True: prompt and answer were tokenised separately."""


class Dialogue(NamedTuple):
    """A tokenised dialogue: everything before the first trained turn, then that turn and the rest."""

    prompt_ids: list[int]
    body_ids: list[int]
    body_targets: list[bool]
    """True: the token belongs to a trained turn (including its end token)."""
    retokenized: bool


class Encoder:
    """One tokenizer with one template."""

    def __init__(self, tokenizer: TokenizerLike, template: str) -> None:
        self._tokenizer = tokenizer
        self._cutting = tokenizer if isinstance(tokenizer, CuttingTokenizer) else None
        self._template = open_template(template, tokenizer)
        self.end_id = self._id_of(self._template.end)
        """The token that ends every answer; a chat template may use another token than EOS."""
        self.unknown_id = unknown_id(tokenizer)
        """The unknown token, if there is one."""
        # Some tokenizers close every text with EOS when they add special tokens; a prompt must stay open.
        closing = list(tokenizer("a", add_special_tokens=True)["input_ids"])[-1:]
        self._closes_text = closing == [int(tokenizer.eos_token_id)]

    def encode_prompt(self, asked: Given | Conversation) -> Prompt:
        """Tokenise turns or messages whose last one is a user's (or a tool's), up to where the answer begins."""
        asked = conversation(asked)
        text = self._template.render_prompt(asked)
        return Prompt(asked, text, self._tokenize(text, special=self._template.adds_special_tokens))

    def encode_answer(self, prompt: Prompt, answer: str) -> Answer:
        """Tokenise ``answer`` as the continuation of ``prompt``; the end token is appended once, as an id."""
        piece = self._template.render_answer(prompt.asked, prompt.text, answer)
        ids, retokenized = self._continue(prompt.text, prompt.ids, piece)
        return Answer(self._with_end(ids), retokenized)

    def encode_answers(self, asked: Given | Conversation, answers: Sequence[str]) -> tuple[Prompt, list[Answer]]:
        """Tokenise a prompt and several answers to it; same result as ``encode_prompt`` and ``encode_answer``."""
        asked = conversation(asked)
        text = self._template.render_prompt(asked)
        pieces = [self._template.render_answer(asked, text, answer) for answer in answers]
        cut = [self._cut_segments([Segment(text, False), Segment(piece, True)]) for piece in pieces]
        if None not in cut and all(prompt_ids == cut[0][0] for prompt_ids, _ in cut):
            return Prompt(asked, text, cut[0][0]), [Answer(self._with_end(ids), False) for _, ids in cut]
        prompt = self.encode_prompt(asked)
        return prompt, [self.encode_answer(prompt, answer) for answer in answers]

    def encode_dialogue(self, dialogue: Given | Conversation) -> Dialogue:
        """Tokenise turns or messages; ``Conversation.targets`` and their end tokens are training targets."""
        segments = self._template.render_dialogue(conversation(dialogue))
        pieces, retokenized = self._tokenize_segments(segments)
        body_ids: list[int] = []
        body_targets: list[bool] = []
        for segment, piece in zip(segments[1:], pieces[1:], strict=True):
            ids = self._with_end(piece) if segment.is_answer else piece
            body_ids += ids
            body_targets += [segment.is_answer] * len(ids)
        return Dialogue(pieces[0], body_ids, body_targets, retokenized)

    def encode_text(self, text: str) -> list[int]:
        """Tokenise ``text`` without a template, with the tokenizer's special tokens and its EOS at the end."""
        eos = int(self._tokenizer.eos_token_id)
        ids = self._tokenize(text, special=True)
        return ids if ids[-1:] == [eos] else [*ids, eos]

    def open_text(self, text: str) -> list[int]:
        """Tokenise ``text`` without a template, with the tokenizer's special tokens, as a prompt that goes on."""
        return self._tokenize(text, special=True)

    def count_content(self, answer_ids: Sequence[int]) -> int:
        """Return the number of answer tokens, not counting a final end token."""
        return len(answer_ids) - int(bool(answer_ids) and answer_ids[-1] == self.end_id)

    def _tokenize_segments(self, segments: Sequence[Segment]) -> tuple[list[list[int]], bool]:
        """Return the ids of each segment (without end tokens), and whether any was tokenised separately."""
        pieces = self._cut_segments(segments)
        return self._follow_segments(segments) if pieces is None else (pieces, False)

    def _cut_segments(self, segments: Sequence[Segment]) -> list[list[int]] | None:
        """Tokenise the whole text at once; None if tokens cannot be assigned to segments."""
        if self._cutting is None:
            return None
        parts = [part for segment in segments for part in (segment.text, segment.end) if part]
        text, special = "".join(parts), self._template.adds_special_tokens
        ids, counts = self._cutting.encode_cut(text, list(accumulate(map(len, parts[:-1]))), add_special_tokens=special)
        if None in counts:
            return None
        ids, start, bounds, pieces = self._opened(ids, special=special), 0, iter(counts), []
        for segment in segments:
            stop = next(bounds, len(ids)) if segment.text else start
            pieces.append(ids[start:stop])
            start = next(bounds, len(ids)) if segment.end else stop
            if segment.end and ids[stop:start] != [self.end_id]:
                return None
        return pieces

    def _follow_segments(self, segments: Sequence[Segment]) -> tuple[list[list[int]], bool]:
        """Tokenise each segment as the continuation of everything before it."""
        text = segments[0].text
        ids = self._tokenize(text, special=self._template.adds_special_tokens)
        pieces, any_retokenized = [ids], False
        for segment in segments[1:]:
            piece, retokenized = self._continue(text, ids, segment.text)
            text += segment.text + segment.end
            ids = ids + (self._with_end(piece) if segment.end else piece)
            pieces.append(piece)
            any_retokenized |= retokenized
        return pieces, any_retokenized

    def _continue(self, text: str, ids: list[int], piece: str) -> tuple[list[int], bool]:
        """Return the ids of ``piece`` after ``text`` (with ids ``ids``), and whether it was tokenised separately."""
        joint = self._tokenize(text + piece, special=self._template.adds_special_tokens)
        if joint[: len(ids)] == ids and self._is_faithful(text, ids):
            return joint[len(ids) :], False
        return self._tokenize(piece, special=False), True

    def _is_faithful(self, text: str, ids: list[int]) -> bool:
        """Tell whether the last token decodes to the end of ``text``.

        An unknown-word token does not: ``ASSISTANT:`` and ``ASSISTANT:yes`` may both become ``<unk>``, which would
        silently lose the answer's first word.
        """
        return text.rstrip().endswith(self._tokenizer.decode(ids[-1:], skip_special_tokens=False).strip())

    def _with_end(self, ids: list[int]) -> list[int]:
        end = len(ids)
        while end and ids[end - 1] == self.end_id:
            end -= 1
        return [*ids[:end], self.end_id]

    def _tokenize(self, text: str, *, special: bool) -> list[int]:
        ids = list(map(int, self._tokenizer(text, add_special_tokens=special)["input_ids"]))
        return self._opened(ids, special=special)

    def _opened(self, ids: list[int], *, special: bool) -> list[int]:
        return ids[:-1] if special and self._closes_text else ids

    def _id_of(self, token: str) -> int:
        if token == self._tokenizer.eos_token:
            return int(self._tokenizer.eos_token_id)
        [number] = self._tokenizer(token, add_special_tokens=False)["input_ids"]
        return int(number)
