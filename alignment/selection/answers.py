"""Choose answers to imitate: the best of n, the k best, or all that are good enough."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from alignment.fields import argument
from alignment.selection.method import BELOW_MINIMUM, Selected, require_responses
from alignment.selection.scored import Row, Scored


@dataclass(frozen=True, kw_only=True)
class BestOfN:
    """Rejection sampling as in RAFT and OpenRLHF's ``rs``: of the answers to a prompt, the one with the highest
    reward (the first of several).
    """

    SUMMARY: ClassVar[str] = "the answer with the highest reward to each prompt"

    min_reward: float | None = None
    """A prompt whose best answer has a lower reward is dropped (null: none is)."""

    def select(self, prompts: Sequence[Scored]) -> Selected:
        """Return a row (``prompt``, ``response``, ``reward``) for each prompt."""
        require_responses(prompts, 2, "best_of_n")
        return _above(prompts, ([item.best] for item in prompts), self.min_reward)


@dataclass(frozen=True, kw_only=True)
class TopK:
    """The ``k`` answers to a prompt with the highest rewards, the best first."""

    SUMMARY: ClassVar[str] = "the k answers with the highest rewards to each prompt"

    k: int = argument(minimum=1)
    """How many answers to a prompt are kept."""
    min_reward: float | None = None
    """Answers with a lower reward are left out (null: none is)."""

    def select(self, prompts: Sequence[Scored]) -> Selected:
        """Return up to ``k`` rows (``prompt``, ``response``, ``reward``) for each prompt."""
        require_responses(prompts, self.k, f"top_k with k={self.k}")
        return _above(prompts, (_descending(item)[: self.k] for item in prompts), self.min_reward)


@dataclass(frozen=True, kw_only=True)
class AtLeast:
    """Every answer that is good enough."""

    SUMMARY: ClassVar[str] = "every answer with at least min_reward"

    min_reward: float = argument()
    """The lowest reward of an answer that is kept."""

    def select(self, prompts: Sequence[Scored]) -> Selected:
        """Return a row (``prompt``, ``response``, ``reward``) for each good answer, in the order of the answers."""
        return _above(prompts, (range(len(item.responses)) for item in prompts), self.min_reward)


def _descending(item: Scored) -> list[int]:
    return sorted(range(len(item.rewards)), key=lambda index: -item.rewards[index])


def _above(prompts: Sequence[Scored], chosen: Iterable[Sequence[int]], least: float | None) -> Selected:
    """Return rows of the ``chosen`` indices whose reward is not below ``least``."""
    rows: list[Row] = []
    empty: list[int] = []
    for number, (item, indices) in enumerate(zip(prompts, chosen, strict=True)):
        good = [index for index in indices if least is None or item.rewards[index] >= least]
        rows += [
            {"prompt": item.prompt, **item.beside, "response": item.responses[index], "reward": item.rewards[index]}
            for index in good
        ]
        if not good:
            empty.append(number)
    return Selected(rows, {BELOW_MINIMUM: empty} if empty else {})
