"""Which forward passes of an on-policy run are not made twice, decided from its arguments; works without Paddle."""

from __future__ import annotations

from alignment.arguments.keys.savings import needs_trainers_logprobs
from alignment.arguments.parsed import Parsed
from alignment.runs.on_policy.algorithm import ChosenAlgorithm

CHECKED_SHARE = 16
"""One response in this many is checked, unless another number is given."""


def checked_rows(parsed: Parsed, total: int, *, dtype: str) -> int | None:
    """Return of how many of the ``total`` responses of a rollout the trainer computes the log-probs, the others being
    the engine's; None: of all. ``dtype`` is that of the trainer's products.
    """
    if parsed.savings.use_rollout_logprobs is False:
        return None
    return _asked_rows(parsed, total) if obstacle_to_rollout_logprobs(parsed, total, dtype=dtype) is None else None


def obstacle_to_rollout_logprobs(parsed: Parsed, total: int, *, dtype: str) -> str | None:
    """Return why the trainer computes the log-probs of all ``total`` responses although that is not asked for; None: it
    does not.
    """
    if _asked_rows(parsed, total) >= total:
        return f"a rollout has {total} responses"
    if parsed.savings.use_rollout_logprobs is True:
        return None
    if not types_are_float32(parsed, dtype):
        return "trainer and engine do not both compute in float32"
    return needs_trainers_logprobs(parsed.as_dict())


def obstacle_to_one_pass(parsed: Parsed, *, updates: int, apart: bool) -> str | None:
    """Return why the critic cannot learn from the values of one pass; None: it can.

    ``updates`` are those of a rollout; ``apart``: roles have ranks of their own.
    """
    spec = ChosenAlgorithm.of(parsed).spec
    obstacles = {
        f"{spec.title} estimates from more than a row's own values": spec.returns is None,
        f"each rollout is {updates} updates, and the values are those before the first": updates > 1,
        "with placement the critic learns beside the policy": apart,
        "values are measured without the dropout with which the critic learns": parsed.adapter.lora_dropout > 0,
    }
    return next((why for why, holds in obstacles.items() if holds), None)


def types_are_float32(parsed: Parsed, dtype: str) -> bool:
    """Tell whether trainer (products in ``dtype``) and engine compute in float32: they differ by little rounding."""
    engine = parsed.engine
    return {dtype, engine.rollout_weight_type or "float32", engine.rollout_kv_type or "float32"} == {"float32"}


def replays_experts(parsed: Parsed, *, dtype: str) -> bool:
    """Tell whether a policy with experts, its products in ``dtype``, learns with those that rollouts chose."""
    asked = parsed.on_policy.use_rollout_routing_replay
    return asked is True or (asked == "auto" and not types_are_float32(parsed, dtype))


def _asked_rows(parsed: Parsed, total: int) -> int:
    """Return how many of ``total`` responses are to be checked."""
    count = parsed.savings.logprob_check_rows
    return -(-total // CHECKED_SHARE) if count == -1 else count
