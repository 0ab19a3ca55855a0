"""Arguments that say how two answers are compared by a language model."""

from __future__ import annotations

from dataclasses import dataclass

from alignment.arguments.keys.offline import OfflineArguments
from alignment.fields import argument


@dataclass(frozen=True, kw_only=True)
class PairwiseArguments(OfflineArguments):
    """What to train on, from which model, and how a pair is written and answered."""

    pairwise_template: str | None = None
    """Text of the question, with {context}, {response_A} and {response_B} once each; null: that of RLHFlow's models,
    [CONTEXT] {context} [RESPONSE A] {response_A} [RESPONSE B] {response_B}."""
    pairwise_turn: str | None = None
    """Text of each turn of the context, with {content} once and, if wanted, {role}; null: RLHFlow's."""
    pairwise_letters: tuple[str, ...] | None = argument(None, keeps_repeats=True)
    """The answer for the first and for the second response, one token each; null: A B."""
