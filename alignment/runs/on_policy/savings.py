"""Decide which forward passes of an on-policy run are not made twice, and say so."""

from __future__ import annotations

from alignment.errors import ArgumentError
from alignment.rollout.logprob_check import LogprobCheck
from alignment.runs.launch import Launch
from alignment.runs.on_policy.prompts import RowPlan
from alignment.runs.on_policy.saved_passes import (
    checked_rows,
    obstacle_to_one_pass,
    obstacle_to_rollout_logprobs,
)
from alignment.telemetry import log


def build_logprob_check(launch: Launch, plan: RowPlan) -> LogprobCheck | None:
    """Return what takes old log-probs from the engine, None if the trainer computes all of them; log which."""
    parsed = launch.parsed
    total = plan.prompts_per_iteration * plan.samples_per_prompt
    count = checked_rows(parsed, total, dtype=launch.product_dtype)
    if count is None:
        _warn_of_unused(launch, total)
        return None
    log.info(
        f"old log-probs are the engine's: the trainer computes those of {count} of the {total} responses of a rollout "
        "to check them (use_rollout_logprobs)"
    )
    return LogprobCheck(num_rows=count, limit=parsed.engine.logprob_gap_limit)


def takes_values_from_update(launch: Launch, plan: RowPlan) -> bool:
    """Tell whether the critic's values are those of the pass in which it learns, and log it.

    ArgumentError if that is asked for and cannot be.
    """
    parsed = launch.parsed
    if "critic" not in parsed.groups or parsed.savings.values_from_update is False:
        return False
    obstacle = obstacle_to_one_pass(parsed, updates=plan.updates_per_rollout, apart=bool(launch.roles))
    if obstacle is not None and parsed.savings.values_from_update is True:
        raise ArgumentError(f"values_from_update=true cannot be: {obstacle}. Allowed: auto, false")
    if obstacle is None:
        unused = "; per_device_value_batch_size has no effect" * parsed.given("per_device_value_batch_size")
        log.info(f"the critic's values come from the pass in which it learns (values_from_update){unused}")
    return obstacle is None


def _warn_of_unused(launch: Launch, total: int) -> None:
    """Warn of given keys that ask for the engine's log-probs where the trainer computes those of all ``total``."""
    savings, given = launch.parsed.savings, []
    if savings.use_rollout_logprobs is True:
        given.append("use_rollout_logprobs=true")
    if launch.parsed.given("logprob_check_rows") and savings.use_rollout_logprobs is not False:
        given.append(f"logprob_check_rows={savings.logprob_check_rows}")
    if given:
        why = obstacle_to_rollout_logprobs(launch.parsed, total, dtype=launch.product_dtype)
        log.warn(f"{' and '.join(given)} without effect: the trainer computes all old log-probs ({why})")
