"""Requests that join and leave a running engine, and what it tells of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np

from alignment.generation.engine import GenerationOptions


@dataclass(slots=True, eq=False, kw_only=True)
class Ask:
    """One request: prompts, each answered once, and how."""

    prompts: Sequence[np.ndarray]
    """Token ids of each."""
    options: GenerationOptions
    seed: int
    sequence_ids: Sequence[int]
    """Address of the random numbers of each answer, as in ``Engine.generate``."""
    num_likeliest: int = 0
    """How many of the likeliest tokens are told beside each drawn one."""
    limits: np.ndarray = field(init=False)
    """The most tokens of each answer."""
    weights: str = field(init=False, default="")
    """Content of the weights that answer; known from the first piece on."""

    def __post_init__(self) -> None:
        assert len(self.prompts) == len(self.sequence_ids), "one sequence id for each prompt"
        self.limits = self.options.answer_limits(np.array([len(prompt) for prompt in self.prompts], np.int64))


Likeliest = tuple[tuple[int, float], ...]
"""Pairs of token and log-prob, the likeliest first."""


class Growth(NamedTuple):
    """Tokens by which an answer has grown."""

    ask: Ask
    choice: int
    """Index of the answer's prompt in ``ask``."""
    tokens: Sequence[int]
    logprobs: Sequence[float]
    likeliest: Sequence[Likeliest]
    """Of each token; empty unless ``ask.num_likeliest``."""
    finish_reason: str | None
    """``stop`` (the last token is a stop token) or ``length``; None: more follows."""


class RunningBatch(Protocol):
    """Answers of several requests at once; used by one thread."""

    @property
    def num_running(self) -> int:
        """Number of unfinished answers, waiting ones included."""
        ...

    def submit(self, ask: Ask) -> None:
        """Take a request; UserError if a prompt cannot be answered."""
        ...

    def cancel(self, ask: Ask) -> None:
        """Forget all unfinished answers of ``ask``."""
        ...

    def step(self) -> list[Growth]:
        """Go on with all answers; call this only while some are unfinished."""
        ...
