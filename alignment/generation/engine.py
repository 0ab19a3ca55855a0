"""The interface of generation engines, and their options."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from alignment.errors import UserError
from alignment.records import Completion

_TEMPERATURES = (1e-5, 1e5)
_PENALTIES = (1e-3, 1e3)
"""Logits stay finite in float32 within both; an engine that fails does so for all answers of its batch."""
_MOST_LIKELIEST = 2**31 - 1
"""A C int."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationOptions:
    """How to complete prompts; UserError for invalid values."""

    max_new_tokens: int
    max_total_tokens: int | None = None
    """The longest prompt and answer together; None: only ``max_new_tokens`` counts."""
    min_new_tokens: int = 0
    """Stop tokens are forbidden before the answer has this many tokens."""
    do_sample: bool = True
    """False: always take the likeliest token (``top_k``, ``top_p`` and the seed have no effect)."""
    temperature: float = 1.0
    """Divides the logits; the log-probs of completions are at this temperature too."""
    top_k: int = 0
    """Sample among the k likeliest tokens; 0: all."""
    top_p: float = 1.0
    """Sample among the fewest likeliest tokens that together reach this probability; 1: all."""
    repetition_penalty: float = 1.0
    """Divides positive and multiplies negative logits of tokens that occur in prompt or answer; 1: off."""
    stop_token_ids: tuple[int, ...] = ()
    routed_experts: bool = False
    """Whether completions say which experts their tokens were given to; only for models with experts."""

    def __post_init__(self) -> None:
        rules = (
            ("max_new_tokens", self.max_new_tokens >= 1, "at least 1"),
            ("max_total_tokens", self.max_total_tokens is None or self.max_total_tokens >= 2, "2 or more, or none"),
            ("min_new_tokens", 0 <= self.min_new_tokens <= self.max_new_tokens, "0 to max_new_tokens"),
            (
                "temperature",
                _is_within(self.temperature, _TEMPERATURES),
                "1e-05 to 1e+05; do_sample=false for the likeliest",
            ),
            ("top_k", 0 <= self.top_k <= _MOST_LIKELIEST, "0 (all tokens) to 2147483647"),
            ("top_p", 0 < self.top_p <= 1, "above 0, at most 1"),
            ("repetition_penalty", _is_within(self.repetition_penalty, _PENALTIES), "0.001 to 1000"),
            ("stop_token_ids", all(token >= 0 for token in self.stop_token_ids), "token ids, 0 or more"),
        )
        wrong = [(name, allowed) for name, right, allowed in rules if not right]
        problems = [f"{name}={getattr(self, name)!r} (allowed: {allowed})" for name, allowed in wrong]
        if problems:
            raise UserError("generation options: " + "; ".join(problems))

    def answer_limits(self, prompt_lengths: np.ndarray) -> np.ndarray:
        """Return the most tokens [B] that each answer may have, for prompts of ``prompt_lengths`` [B]."""
        limits = np.full(len(prompt_lengths), self.max_new_tokens)
        return limits if self.max_total_tokens is None else np.minimum(limits, self.max_total_tokens - prompt_lengths)


def _is_within(value: float, limits: tuple[float, float]) -> bool:
    return limits[0] <= value <= limits[1]


class Engine(Protocol):
    """Completes prompts of token ids; independent of tokenizers and trainers."""

    @property
    def features(self) -> frozenset[str]:
        """The model features it supports, as named in ``DecoderConfig.features``."""
        ...

    def load_weights(self, weights: Iterable[tuple[str, Any]] | None, version: int) -> None:
        """Load weights by Hugging Face name (None: the model's own); call this after every update of the model."""
        ...

    def generate(
        self, prompts: Sequence[Sequence[int]], options: GenerationOptions, *, seed: int, sequence_ids: Sequence[int]
    ) -> list[Completion]:
        """Return a completion of every prompt.

        It depends on the prompt, the options, ``seed`` and the sequence id, but not on other prompts.
        """
        ...

    def release(self) -> None:
        """Free the memory that is only needed to generate."""
        ...


def missing_features(config: Any, features: frozenset[str]) -> list[str]:
    """Return the features of ``config`` (a DecoderConfig) that are not among ``features``, sorted."""
    return sorted(config.features - features)
