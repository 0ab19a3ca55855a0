"""Conditional SFT: imitate every answer, with its reward in the prompt (OpenRLHF's ``csft``)."""

from __future__ import annotations

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

    def __post_init__(self) -> None:
        missing = [name for name in _FIELDS if name not in self.reward_template]
        if missing:
            raise ArgumentError(f"reward_template={self.reward_template!r} lacks {' and '.join(missing)}")

    def select(self, prompts: Sequence[Scored]) -> Selected:
        """Return a row (``prompt``, ``response``, ``reward``) for each answer; ``reward`` is the one in the prompt."""
        mean, deviation = self._scale([reward for item in prompts for reward in item.rewards])
        rows = []
        for item in prompts:
            for text, reward in zip(item.responses, item.rewards, strict=True):
                shown = (reward - mean) / deviation
                asked = {"prompt": self._condition(item.prompt, shown), **item.beside}
                rows.append({**asked, "response": text, "reward": shown})
        return Selected(rows, {})

    def _scale(self, rewards: Sequence[float]) -> tuple[float, float]:
        if not self.normalize_reward:
            return 0.0, 1.0
        if len(set(rewards)) < 2:
            raise DataError("normalize_reward: all rewards are equal, so that they cannot be standardised")
        return statistics.fmean(rewards), statistics.stdev(rewards)

    def _condition(self, prompt: Prompt, reward: float) -> Prompt:
        if isinstance(prompt, str):
            return self.reward_template.replace("{reward}", f"{reward:.2f}").replace("{input}", prompt)
        last = prompt[-1]
        if isinstance(last, str):
            return [*prompt[:-1], self._condition(last, reward)]
        key = next((key for key in ("content", "value") if isinstance(last, dict) and key in last), None)
        if key is None:
            raise DataError(f"reward_template: the last message of a prompt must have text, got {last!r:.80}")
        return [*prompt[:-1], {**last, key: self._condition(last[key], reward)}]
