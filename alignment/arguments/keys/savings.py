"""Arguments that say which forward passes of an on-policy run are not made twice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from alignment.fields import Case, Situation, argument, where


def _asked(holds: Callable[[Situation], bool], why: str, when: str) -> Case:
    """Return the case that true is asked for although ``holds``."""
    return Case(lambda value, s: value is True and holds(s), why, when)


_NO_CRITIC = Case(lambda value, s: "critic_learning_rate" not in s.values, "this algorithm has no critic")

NEED_TRAINERS_LOGPROBS = (
    _asked(
        lambda s: bool(s.values.get("rollout_ahead")),
        "the policy has been updated since it sampled a rollout ahead, so its old log-probs are others",
        "rollout_ahead is 1",
    ),
    _asked(
        lambda s: s.values.get("on_logprob_gap") in ("correct", "recompute"),
        "on_logprob_gap=correct and recompute need the trainer's log-probs of every response",
        "on_logprob_gap is correct or recompute",
    ),
    _asked(
        lambda s: bool(s.values.get("dynamic_sampling")),
        "dynamic_sampling drops responses, perhaps all that were checked",
        "dynamic_sampling is true",
    ),
)
"""What needs the trainer's log-probs of all responses."""


@dataclass(frozen=True, kw_only=True)
class SavingsArguments:
    """Which forward passes are not made twice."""

    use_rollout_logprobs: Literal["auto"] | bool = argument("auto", refused_when=NEED_TRAINERS_LOGPROBS)
    """Take a rollout's old log-probs from the engine. The trainer computes those of logprob_check_rows responses, and
    those of all only if these are not within logprob_gap_limit. false: the trainer computes all; auto: true where
    trainer and engine compute in float32 and nothing needs all of the trainer's."""
    logprob_check_rows: int = argument(-1, minimum=-1, excluded=(0,), inert_when=where("use_rollout_logprobs", False))
    """Responses of a rollout, evenly spaced, of which the trainer's log-probs are compared with the engine's; -1: one
    in 16, at least one."""
    values_from_update: Literal["auto"] | bool = argument("auto", inert_when=_NO_CRITIC)
    """Take the critic's values from the pass in which it learns, before the policy learns. That takes one update per
    rollout, ppo, no placement and no dropout; auto: true where these hold."""


def needs_trainers_logprobs(values: Any) -> str | None:
    """Return why a run with ``values`` (all its keys) needs the trainer's log-probs of all responses; None: no need."""
    situation = Situation("cpu", 1, values)
    return next((case.when for case in NEED_TRAINERS_LOGPROBS if case.holds(True, situation)), None)
