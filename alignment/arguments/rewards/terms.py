"""Arguments of the terms that are added to the score of any reward source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from alignment.fields import Case, Situation, argument, where

_NO_BUFFER = where("enable_overlong_reward_buffer", False)


def _has_no_format(value: Any, s: Situation) -> bool:
    return value not in (None, 0) and not (s.values.get("reward_format_pattern") or s.values.get("reward_format_tags"))


@dataclass(frozen=True, kw_only=True)
class RewardTermArguments:
    """Terms of the score; added after normalisation and weights, and before clip_range_score."""

    missing_eos_penalty: float | None = argument(None, minimum=0)
    """Subtracted from the score of responses that did not end by themselves (TRL's meaning); null: nothing."""
    stop_properly_penalty_coef: float | None = argument(None, minimum=0, maximum=1)
    """The score of responses that did not end by themselves is multiplied by this (OpenRLHF's meaning), before other
    terms; a negative score then rises. null: not."""
    enable_overlong_reward_buffer: bool = False
    """Reduce the reward of responses that are almost too long (DAPO)."""
    overlong_reward_buffer: int = argument(256, minimum=1, inert_when=_NO_BUFFER)
    """Tokens before the limit over which the reward falls (OpenRLHF, DAPO: overlong_buffer_len, which also enables
    it)."""
    overlong_penalty_factor: float = argument(1.0, minimum=0, inert_when=_NO_BUFFER)
    """Subtracted from the score of a response that fills its limit."""
    length_penalty_coeff: float = argument(0.0, minimum=0)
    """Subtracted from the score for every token of the response."""
    reward_format_pattern: str | None = None
    """A regular expression; responses that match it from beginning to end earn reward_format_weight."""
    reward_format_tags: tuple[str, ...] | None = None
    """Tags such as think,answer; responses that open and close each once, in this order, earn reward_format_weight."""
    reward_format_weight: float = argument(
        1.0, inert_when=Case(_has_no_format, "neither reward_format_pattern nor reward_format_tags is given")
    )
    """What a response in the right format earns, for reward_format_pattern and for reward_format_tags."""

    @property
    def numbers(self) -> dict[str, dict[str, Any]]:
        """The keyword arguments of every term that is added, by its name in ``rollout.rewards.terms.TERMS``."""
        weight = self.reward_format_weight
        asked = {
            "stop_properly": self.stop_properly_penalty_coef is not None and {"coef": self.stop_properly_penalty_coef},
            "missing_eos": self.missing_eos_penalty and {"penalty": self.missing_eos_penalty},
            "overlong": self.enable_overlong_reward_buffer
            and {"buffer": self.overlong_reward_buffer, "factor": self.overlong_penalty_factor},
            "length": self.length_penalty_coeff and {"coeff": self.length_penalty_coeff},
            "format": self.reward_format_pattern and {"pattern": self.reward_format_pattern, "weight": weight},
            "tags": self.reward_format_tags and {"tags": self.reward_format_tags, "weight": weight},
        }
        return {name: found for name, found in asked.items() if found}
