"""Decide which forward passes of an on-policy run are not made twice, and say so."""

from __future__ import annotations

from alignment.arguments.keys.savings import needs_trainers_logprobs
from alignment.errors import ArgumentError
from alignment.rollout.logprob_check import LogprobCheck
from alignment.runs.launch import Launch
from alignment.runs.on_policy.algorithm import ChosenAlgorithm
from alignment.runs.on_policy.prompts import RowPlan
from alignment.telemetry import log

CHECKED_SHARE = 16
"""One response in this many is checked, unless another number is given."""


def build_logprob_check(launch: Launch, plan: RowPlan) -> LogprobCheck | None:
    """Return what takes old log-probs from the engine, None if the trainer computes all of them; log which."""
    parsed = launch.parsed
    total = plan.prompts_per_iteration * plan.samples_per_prompt
    asked, count = parsed.savings.use_rollout_logprobs, parsed.savings.logprob_check_rows
    if count == -1:
        count = -(-total // CHECKED_SHARE)
    if asked is False or count >= total or (asked == "auto" and _needs_trainers_logprobs(launch)):
        return None
    log.info(
        f"old log-probs are the engine's: the trainer computes those of {count} of the {total} responses of a rollout "
        "to check them (use_rollout_logprobs)"
    )
    return LogprobCheck(num_rows=count, limit=parsed.engine.logprob_gap_limit)


def computes_in_float32(launch: Launch) -> bool:
    """Tell whether trainer and engine do, so that they differ by rounding only."""
    engine = launch.parsed.engine
    return {launch.dtype, engine.rollout_weight_type or "float32", engine.rollout_kv_type or "float32"} == {"float32"}


def takes_values_from_update(launch: Launch, plan: RowPlan) -> bool:
    """Tell whether the critic's values are those of the pass in which it learns, and log it.

    ArgumentError if that is asked for and cannot be.
    """
    parsed = launch.parsed
    if "critic" not in parsed.groups or parsed.savings.values_from_update is False:
        return False
    obstacle = _obstacle_to_one_pass(launch, plan)
    if obstacle is not None and parsed.savings.values_from_update is True:
        raise ArgumentError(f"values_from_update=true cannot be: {obstacle}. Allowed: auto, false")
    if obstacle is None:
        log.info("the critic's values come from the pass in which it learns (values_from_update)")
    return obstacle is None


def _needs_trainers_logprobs(launch: Launch) -> bool:
    """Tell whether the engine's log-probs are not the trainer's within rounding, or not enough."""
    return not computes_in_float32(launch) or needs_trainers_logprobs(launch.parsed.as_dict()) is not None


def _obstacle_to_one_pass(launch: Launch, plan: RowPlan) -> str | None:
    """Return why the critic cannot learn from the values of one pass; None: it can."""
    parsed = launch.parsed
    spec, updates = ChosenAlgorithm.of(parsed).spec, plan.updates_per_rollout
    obstacles = {
        f"{spec.title} estimates from more than a row's own values": spec.returns is None,
        f"each rollout is {updates} updates, and the values are those before the first": updates > 1,
        "with placement the critic learns beside the policy": bool(launch.roles),
        "values are measured without the dropout with which the critic learns": parsed.adapter.lora_dropout > 0,
    }
    return next((why for why, holds in obstacles.items() if holds), None)
