"""Draft the next tokens of a sequence from what it, or earlier answers to its prompt, said after the same tokens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

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
    """The answers to each prompt of the last time that it was asked."""

    def __init__(self) -> None:
        self._answers: dict[bytes, list[np.ndarray]] = {}

    def of(self, prompt: np.ndarray) -> list[np.ndarray]:
        """Return the answers to ``prompt`` [P] int32."""
        return self._answers.get(prompt.tobytes(), [])

    def record(self, prompts: Sequence[np.ndarray], answers: Sequence[np.ndarray]) -> None:
        """Replace the answers to ``prompts`` (equal ones have several) by ``answers``."""
        found: dict[bytes, list[np.ndarray]] = {}
        for prompt, answer in zip(prompts, answers, strict=True):
            found.setdefault(prompt.tobytes(), []).append(answer.astype(np.int32))
        self._answers |= found


class Drafter:
    """Drafts for the sequences in slots. A wrong one costs time and never changes a token."""

    def __init__(self, previous: PreviousAnswers | None = None) -> None:
        """``previous``: draft from its answers first; None: only from the sequence itself."""
        self._previous = previous
        self._own: dict[int, Continuations] = {}
        self._earlier: dict[int, Continuations] = {}

    def enter(self, slot: int, prompt: np.ndarray, tokens: np.ndarray) -> None:
        """Begin with ``slot``, whose known ``tokens`` are ``prompt`` and the answer so far."""
        self._own[slot], self._earlier[slot] = own, earlier = Continuations(), Continuations()
        own.extend(tokens.tolist())
        for answer in self._previous.of(prompt) if self._previous else ():
            earlier.extend([_BREAK, *prompt[-max(_SIZES) :].tolist(), *answer.tolist()])

    def extend(self, slots: np.ndarray, tokens: np.ndarray) -> None:
        """Append one token to each of ``slots``."""
        for slot, token in zip(slots.tolist(), tokens.tolist(), strict=True):
            self._own[slot].extend((token,))

    def draft(self, slot: int, most: int) -> list[int]:
        """Return up to ``most`` tokens that may follow in ``slot``, perhaps none."""
        own = self._own[slot]
        for size in _SIZES:
            last = tuple(own.text[-size:])
            found = self._earlier[slot].find(last, most) or own.find(last, most)
            if found:
                return found
        return []
