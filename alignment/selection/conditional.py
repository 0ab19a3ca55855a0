"""Conditional SFT: imitate every answer, with its reward in the prompt (OpenRLHF's ``csft``)."""

from __future__ import annotations

import bisect
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from alignment.errors import ArgumentError, DataError
from alignment.fields import argument
from alignment.selection.method import Selected
from alignment.selection.scored import Prompt, Scored

_FIELDS = ("{input}", "{reward}")


@dataclass(frozen=True, kw_only=True)
class Conditional:
    """Every answer with its reward in the prompt; at inference a high reward is written there instead."""

    SUMMARY: ClassVar[str] = "every answer, with its reward in the prompt"

    reward_template: str = argument("{input} <rm_score>: {reward} ")
    """The new prompt: {input} is the old one (of messages: the text of the last), {reward} the reward to two digits."""
    normalize_reward: bool = False
    """Whether rewards are standardised over all answers: less their mean, by their (n - 1) standard deviation."""

    reward_words: tuple[str, ...] = ()
    """Words that stand for the number, the lowest first: each stands for an equal share of the answers, by rank."""

    def __post_init__(self) -> None:
        missing = [name for name in _FIELDS if name not in self.reward_template]
        if missing:
            raise ArgumentError(f"reward_template={self.reward_template!r} lacks {' and '.join(missing)}")
        if len(self.reward_words) == 1:
            raise ArgumentError(f"reward_words={self.reward_words[0]}: one word tells nothing (allowed: two or more)")

    def select(self, prompts: Sequence[Scored]) -> Selected:
        """Return a row (``prompt``, ``response``, ``reward``) for each answer; ``reward`` is the one in the prompt."""
        rewards = sorted(reward for item in prompts for reward in item.rewards)
        mean, deviation = self._scale(rewards)
        rows = []
        for item in prompts:
            for text, reward in zip(item.responses, item.rewards, strict=True):
                shown = (reward - mean) / deviation
                told = self._word(bisect.bisect_left(rewards, reward) / len(rewards)) if self.reward_words else shown
                asked = {"prompt": self.condition(item.prompt, told), **item.beside}
                rows.append({**asked, "response": text, "reward": shown})
        return Selected(rows, {})

    def _word(self, share: float) -> str:
        """Return the word for a reward that is above this share of all."""
        return self.reward_words[int(share * len(self.reward_words))]

    def _scale(self, rewards: Sequence[float]) -> tuple[float, float]:
        if not self.normalize_reward:
            return 0.0, 1.0
        if len(set(rewards)) < 2:
            raise DataError("normalize_reward: all rewards are equal, so that they cannot be standardised")
        return statistics.fmean(rewards), statistics.stdev(rewards)

    def condition(self, prompt: Prompt, reward: float | str | None) -> Prompt:
        """Return ``prompt`` with ``reward`` in it, a number or a word; None: the best word."""
        if reward is None:
            reward = self.reward_words[-1]
        if isinstance(prompt, str):
            shown = reward if isinstance(reward, str) else f"{reward:.2f}"
            return self.reward_template.replace("{reward}", shown).replace("{input}", prompt)
        last = prompt[-1]
        if isinstance(last, str):
            return [*prompt[:-1], self.condition(last, reward)]
        key = next((key for key in ("content", "value") if isinstance(last, dict) and key in last), None)
        if key is None:
            raise DataError(f"reward_template: the last message of a prompt must have text, got {last!r:.80}")
        return [*prompt[:-1], {**last, key: self.condition(last[key], reward)}]
