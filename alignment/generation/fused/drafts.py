"""Draft the next tokens of a sequence from what it, or earlier answers to its prompt, said after the same tokens."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence

import numpy as np

from alignment.records import Completion

_SIZES = (3, 2)
"""Numbers of last tokens that are looked up, the most telling first."""
_BREAK = -1
"""Stands between texts; no token."""


class Continuations:
    """What followed each run of tokens in a text that grows."""

    def __init__(self) -> None:
        self.text: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}

    def extend(self, tokens: Iterable[int]) -> None:
        """Append ``tokens``."""
        text, after = self.text, self._after
        for token in tokens:
            for size in _SIZES:
                after[tuple(text[-size:])] = len(text)
            text.append(token)

    def find(self, last: tuple[int, ...], most: int) -> list[int]:
        """Return up to ``most`` tokens that followed ``last`` where it stood most recently, perhaps none."""
        place = self._after.get(last)
        if place is None:
            return []
        found = self.text[place : place + most]
        return found[: found.index(_BREAK)] if _BREAK in found else found


class PreviousAnswers:
    """The answers to each prompt of the last time that it was asked, up to ``most_tokens`` tokens of all answers."""

    def __init__(self, most_tokens: int = 4 << 20) -> None:
        self._answers: dict[bytes, list[np.ndarray]] = {}
        self._most = most_tokens
        self._num_tokens = 0

    def of(self, prompt: np.ndarray) -> list[np.ndarray]:
        """Return the answers to ``prompt`` [P] int32."""
        return self._answers.get(prompt.tobytes(), [])

    def record(self, prompts: Sequence[Sequence[int]], completions: Sequence[Completion]) -> None:
        """Replace the answers to ``prompts`` (equal ones have several); the prompts asked longest ago are dropped."""
        found: dict[bytes, list[np.ndarray]] = {}
        for prompt, completion in zip(prompts, completions, strict=True):
            key = np.asarray(prompt, np.int32).tobytes()
            found.setdefault(key, []).append(completion.token_ids.astype(np.int32))
        for key, answers in found.items():
            self._drop(key)
            self._answers[key] = answers
            self._num_tokens += _count(answers)
        while self._num_tokens > self._most:
            self._drop(next(iter(self._answers)))

    def state(self) -> list[list[str]]:
        """Return a list for each prompt, as JSON values: the prompt and the answers to it."""
        return [[_as_text(key), *(_as_text(a.tobytes()) for a in answers)] for key, answers in self._answers.items()]

    def load_state(self, state: Sequence[Sequence[str]]) -> None:
        """Restore the result of ``state``."""
        texts = [[base64.b64decode(text) for text in row] for row in state]
        self._answers = {key: [np.frombuffer(text, np.int32) for text in answers] for key, *answers in texts}
        self._num_tokens = sum(map(_count, self._answers.values()))

    def _drop(self, key: bytes) -> None:
        self._num_tokens -= _count(self._answers.pop(key, []))


class Drafter:
    """Drafts for the sequences in slots. A wrong one costs time and never changes a token."""

    def __init__(self, previous: PreviousAnswers | None = None) -> None:
        """``previous``: draft from its answers first; None: only from the sequence itself."""
        self._previous = previous
        self._prompts: dict[int, np.ndarray] = {}
        self._own: dict[int, Continuations] = {}
        self._earlier: dict[int, Continuations] = {}

    def enter(self, slot: int, prompt: np.ndarray) -> None:
        """Begin with ``slot``, which answers ``prompt`` [P] int32."""
        self._prompts[slot] = prompt
        self._own.pop(slot, None)

    def draft(self, slot: int, most: int, *, answer: np.ndarray) -> list[int]:
        """Return up to ``most`` tokens that may follow ``answer``, all that ``slot`` has said so far; perhaps none."""
        if slot not in self._own:
            self._read_prompt(slot)
        own, earlier = self._own[slot], self._earlier[slot]
        own.extend(answer[len(own.text) - len(self._prompts[slot]) :].tolist())
        for size in _SIZES:
            last = tuple(own.text[-size:])
            found = earlier.find(last, most) or own.find(last, most)
            if found:
                return found
        return []

    def _read_prompt(self, slot: int) -> None:
        """Look at a prompt and the answers to it only when a draft is wanted: passes of many rows draft nothing."""
        prompt = self._prompts[slot]
        self._own[slot], self._earlier[slot] = own, earlier = Continuations(), Continuations()
        own.extend(prompt.tolist())
        for answer in self._previous.of(prompt) if self._previous else ():
            earlier.extend([_BREAK, *prompt[-max(_SIZES) :].tolist(), *answer.tolist()])


def _count(answers: Iterable[np.ndarray]) -> int:
    return sum(map(len, answers))


def _as_text(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
