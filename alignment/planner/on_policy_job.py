"""Describe an on-policy run as a ``Job``."""

from __future__ import annotations

from math import ceil
from typing import Any

from alignment.architecture.decoder_config import DecoderConfig
from alignment.arguments.keys.critic import CriticArguments
from alignment.arguments.keys.reward_source import RewardSourceArguments
from alignment.arguments.parsed import Parsed
from alignment.planner.job import JUDGE, Job
from alignment.planner.reading import plan_adapters, planned_batches, read_shape
from alignment.runs.on_policy.algorithm import ChosenAlgorithm, cost_names, critic_name
from alignment.runs.on_policy.role_parts import role_parts
from alignment.runs.on_policy.saved_passes import checked_rows, obstacle_to_one_pass, replays_experts

_REWARD = ("reward",)
"""Where a reward model is in the output folder of the run that trained it."""


def read_job(parsed: Parsed, *, device: str) -> Job:
    """Return the job of an on-policy run; only config.json of each model is read. ArgumentError if one is missing."""
    on_policy, training, data, parallel = parsed.on_policy, parsed.training, parsed.data, parsed.parallel
    source, micro = parsed.reward_source, training.per_device_train_batch_size
    rows, micro_batches = planned_batches(training, data.max_length)
    response = min(parsed.generation.max_dec_len or data.max_length - 1, data.max_length - 1)
    # The same as in alignment.runs.on_policy.prompts.RowPlan, which needs Paddle.
    rollout = on_policy.per_device_prompt_batch_size * on_policy.num_return_sequences
    iteration = rollout * max(1, micro * training.gradient_accumulation_steps // rollout)
    algorithm = ChosenAlgorithm.of(parsed)
    keys = parsed.critic if algorithm.needs_critic else CriticArguments()
    policy, critic = _read_trained(parsed, algorithm)
    costs, again = _read_costs(parsed), training.recompute if keys.critic_recompute is None else keys.critic_recompute
    return Job(
        policy=policy,
        critic=critic,
        **costs,
        has_reference=algorithm.needs_reference and not (parsed.adapter.lora or parsed.reference_server.is_given),
        adapters=plan_adapters(parsed, {"policy": policy, "critic": critic, "cost_critic": costs.get("cost_critic")}),
        four_bit=parsed.adapter.load_in_4bit,
        **_read_sources(source, evaluates=training.evaluates),
        group_size=on_policy.num_return_sequences,
        **_passes(parsed, policy, iteration, rows * micro_batches, device=device),
        half=training.weight_dtype(device) == "bfloat16",
        length=data.max_length,
        response=response,
        rows_per_batch=rows,
        logprob_rows=_positive_or(on_policy.per_device_logprob_batch_size, micro),
        value_rows=_positive_or(keys.per_device_value_batch_size, micro),
        reward_rows=_positive_or(source.per_device_reward_batch_size, micro),
        micro_batches=micro_batches,
        max_tokens=training.token_budget(data.max_length),
        iteration_rows=iteration,
        keeps_average=on_policy.use_ema,
        side_by_side=on_policy.per_device_rollout_batch_size,
        recompute=training.recompute_granularity if training.recompute else "",
        critic_recompute=(keys.critic_recompute_granularity or training.recompute_granularity) if again else "",
        with_ptx=bool(on_policy.ptx_datasets and on_policy.ptx_coeff),
        is_scaled=parsed.generation.temperature != 1.0,
        entropy_gradient=algorithm.hyperparameters.has_entropy_bonus,
        offloaded=parallel.offloaded,
        eval_mode=parallel.eval_mode,
        rollout_tensor=parallel.rollout_tensor_parallel_degree,
        native=training.use_native_ops and device == "cpu",
        shares=training.share_prefixes is not False,
        fused=parsed.engine.use_fusemt,
        on_gpu=device == "gpu",
        rollout_weight_type=parsed.engine.rollout_weight_type or training.weight_dtype(device),
        rollout_kv_type=parsed.engine.rollout_kv_type or training.weight_dtype(device),
        rollout_kv_memory=parsed.engine.rollout_kv_memory,
    )


def _passes(
    parsed: Parsed, policy: DecoderConfig, iteration: int, rows_per_update: int, *, device: str
) -> dict[str, Any]:
    """Return what is made, left out and kept of the passes over an ``iteration`` of responses, by field."""
    dtype = parsed.training.product_dtype(device)
    checked = checked_rows(parsed, iteration, dtype=dtype)
    updates = ceil(iteration / rows_per_update) * parsed.on_policy.update_iters
    is_left_out = "critic" not in parsed.groups or parsed.savings.values_from_update is False
    return {
        "kept_choices": _kept_choices(parsed, policy, dtype=dtype),
        "update_iters": parsed.on_policy.update_iters,
        "checked_share": 1.0 if checked is None else checked / iteration,
        "values_from_update": not is_left_out
        and obstacle_to_one_pass(parsed, updates=updates, apart=bool(parsed.placement.placement)) is None,
    }


def _kept_choices(parsed: Parsed, policy: DecoderConfig, *, dtype: str) -> int:
    """Return ``kept_choices``: the next rollout is sampled beside the present one with ``rollout_ahead``."""
    replays = policy.experts is not None and replays_experts(parsed, dtype=dtype)
    return 1 + parsed.on_policy.rollout_ahead if replays else 0


def _read_sources(source: RewardSourceArguments, *, evaluates: bool) -> dict[str, Any]:
    """Return ``reward``, ``other_rewards``, ``pairwise`` and ``source_rows`` of a job."""
    reward = source.reward_model_name_or_path
    models = {f"reward-{entry.log_as}": entry for entry in source.entries if entry.is_model}
    models |= {f"{JUDGE}{entry.log_as}": entry for entry in source.judges if entry.is_model and evaluates}
    return {
        "reward": read_shape(reward, "reward_model_name_or_path", _REWARD) if reward else None,
        "other_rewards": {role: read_shape(entry.name, "reward_sources", _REWARD) for role, entry in models.items()},
        "pairwise": frozenset(
            role
            for role, entry in {**models, "reward": source.model_entry}.items()
            if entry is not None and entry.kind == "pairwise"
        ),
        "source_rows": {role: entry.batch_size for role, entry in models.items() if entry.batch_size > 0},
    }


def _read_trained(parsed: Parsed, algorithm: ChosenAlgorithm) -> tuple[DecoderConfig, DecoderConfig | None]:
    """Return the shapes of the policy and of its critic, None without one."""
    parts, actor = role_parts(parsed), parsed.on_policy.actor_model_name_or_path
    policy = read_shape(actor, "actor_model_name_or_path", parts["policy"])
    if not algorithm.needs_critic:
        return policy, None
    return policy, read_shape(critic_name(parsed), "reward_critic_model_name_or_path", parts["critic"])


def _read_costs(parsed: Parsed) -> dict[str, DecoderConfig]:
    """Return the shapes of the cost model and of its critic, by role; nothing if the algorithm needs no cost."""
    roles, parts = zip(("cost", "cost_critic"), cost_names(parsed), strict=True), role_parts(parsed)
    return {role: read_shape(name, f"{role}_model_name_or_path", parts[role]) for role, name in roles if name}


def _positive_or(value: int, default: int) -> int:
    return value if value > 0 else default
