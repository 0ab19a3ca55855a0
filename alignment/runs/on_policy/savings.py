"""Decide which forward passes of an on-policy run are not made twice, and say so."""

from __future__ import annotations

from alignment.arguments.keys.savings import needs_trainers_logprobs
from alignment.rollout.logprob_check import LogprobCheck
from alignment.runs.launch import Launch
from alignment.runs.on_policy.prompts import RowPlan
from alignment.telemetry import log


def build_logprob_check(launch: Launch, plan: RowPlan) -> LogprobCheck | None:
    """Return what takes old log-probs from the engine, None if the trainer computes all of them; log which."""
    parsed = launch.parsed
    asked, count = parsed.savings.use_rollout_logprobs, parsed.savings.logprob_check_rows
    total = plan.prompts_per_iteration * plan.samples_per_prompt
    if asked is False or count >= total or (asked == "auto" and _obstacle(launch) is not None):
        return None
    log.info(
        f"old log-probs are the engine's; the trainer computes those of {count} of the {total} responses of a rollout "
        "to check them (use_rollout_logprobs)"
    )
    return LogprobCheck(num_rows=count, limit=parsed.engine.logprob_gap_limit)


def _obstacle(launch: Launch) -> str | None:
    """Return why the engine's log-probs are not the trainer's within rounding, or not enough; None: they are."""
    engine = launch.parsed.engine
    types = {launch.dtype, engine.rollout_weight_type or "float32", engine.rollout_kv_type or "float32"}
    if types != {"float32"}:
        return "trainer and engine do not both compute in float32"
    return needs_trainers_logprobs(launch.parsed.as_dict())
