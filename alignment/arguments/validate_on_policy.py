"""Checks of argument combinations for on-policy training."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from alignment.arguments.parser import Check, Values
from alignment.arguments.rewards.entries import find_faults, read_entries
from alignment.arguments.validate import find_replaced
from alignment.metrics import GREEDY, evaluated_name


def check_batches(v: Values) -> Iterator[str]:
    """Check that the rows of a rollout are a multiple of those of an update, or the reverse, so none is left over."""
    if v.global_batch_size > 0 or v.global_mini_batch_size > 0:
        return  # sizes over all processes: ``share_global_batches`` checks them when their number is known
    rows = v.per_device_prompt_batch_size * v.num_return_sequences
    update = v.per_device_train_batch_size * v.gradient_accumulation_steps
    if not fits(rows, update):
        micro, steps = v.per_device_train_batch_size, v.gradient_accumulation_steps
        options = {
            "per_device_prompt_batch_size": [
                p for p in nearest(v.per_device_prompt_batch_size) if fits(p * v.num_return_sequences, update)
            ],
            "per_device_train_batch_size": [b for b in nearest(micro) if fits(rows, b * steps)],
            "gradient_accumulation_steps": [g for g in nearest(steps) if fits(rows, micro * g)],
        }
        words = [f"{key}={' or '.join(map(str, values[:3]))}" for key, values in options.items() if values]
        yield (
            f"per_device_prompt_batch_size * num_return_sequences = {v.per_device_prompt_batch_size} * "
            f"{v.num_return_sequences} = {rows} rows per rollout, and per_device_train_batch_size * "
            f"gradient_accumulation_steps = {micro} * {steps} = {update} rows per update: neither divides the other. "
            f"Values that work: {'; '.join(words)}{v.preset_note(*options, 'num_return_sequences')}"
        )


def fits(rows: int, update: int) -> bool:
    """Return whether one of the two divides the other."""
    return rows % update == 0 or update % rows == 0


def nearest(value: int) -> list[int]:
    """Return the whole numbers from 1 to twice ``value``, nearest first (at most 512 of them)."""
    low = max(1, value - 256)
    return sorted(range(low, min(2 * value, value + 256) + 1), key=lambda other: (abs(other - value), other))


def check_token_budget(v: Values) -> Iterator[str]:
    """Check that the longest row fits a micro-batch; responses are not known beforehand."""
    if v.packing_samples and v.max_tokens_per_batch is not None and v.max_tokens_per_batch < v.max_length:
        yield (
            f"max_tokens_per_batch={v.max_tokens_per_batch} is below max_length={v.max_length}: a prompt with its "
            "response may have as many tokens, and a row is never split. Give max_length or more, or lower max_length"
        )


def check_response_lengths(v: Values) -> Iterator[str]:
    """Check that prompt and response together fit the limit."""
    if v.max_dec_len is None:
        return
    if v.max_dec_len >= v.max_length:
        yield f"max_dec_len={v.max_dec_len} must be below max_length={v.max_length}, which counts the prompt too"
    elif v.max_prompt_len is not None and v.max_prompt_len + v.max_dec_len > v.max_length:
        prompt, response = v.max_prompt_len, v.max_dec_len
        total = f"{prompt} + {response} = {prompt + response}"
        yield f"max_prompt_len + max_dec_len = {total} exceeds max_length={v.max_length}"


def check_minimum_response(v: Values) -> Iterator[str]:
    """Check that a response can reach its minimum length."""
    room = v.max_dec_len or v.max_length - 1
    if v.min_dec_len > room:
        limit = "max_dec_len" if v.max_dec_len else "max_length - 1"
        yield f"min_dec_len={v.min_dec_len} must not exceed {limit} = {room}"


def check_reward_source(v: Values) -> Iterator[str]:
    """Check that there is exactly one source of rewards."""
    sources = ("reward_model_name_or_path", "reward_function", "use_rm_server", "reward_sources")
    named = [key for key in sources if getattr(v, key)]
    if len(named) != 1:
        yield (
            f"give exactly one of {', '.join(sources)}; got {', '.join(named) or 'none'}. Several sources stand "
            "together in reward_sources"
        )


def check_reward_sources(v: Values) -> Iterator[str]:
    """Check that several sources add up to a reward, and that the run deletes no model among them."""
    entries = read_entries(v.reward_sources)
    if not entries:
        return
    yield from find_faults(entries, v.reward_weights)
    models = [entry.name for entry in entries if entry.is_model]
    for model in models if v.overwrite_output_dir else ():
        if Path(model).is_relative_to(v.output_dir):
            yield f"overwrite_output_dir=true would delete {model} of reward_sources; name another folder"


_EVALUATED = ("reward", "masked_rows", "mean_generated_length", "eos_rate", "kl_divergence", "cost", "unsafe_rate")
_COLUMNS = ("prompt", "response", "score", "finish_reason", "step", "source")
"""Of the rows of samples (``loops.evaluation.sample_rows``, and what the file adds), to which each judge adds one."""


def check_judges(v: Values) -> Iterator[str]:
    """Check that second judges have names of their own and nothing that only a source of the reward has."""
    for entry in read_entries(v.eval_reward):
        is_taken = entry.log_as in (*_EVALUATED, *_COLUMNS) or entry.log_as.startswith(GREEDY)
        free = re.sub("_(std|failed_share)$", "", entry.log_as)
        if is_taken or free != entry.log_as:
            yield (
                f"eval_reward: {entry.name} would be reported as eval/{entry.log_as}, the name of another metric or "
                f'column of the samples: give {{"name": "{entry.name}", "log_as": "second_{free}"}}'
            )
        if entry.weight != 1 or entry.normalize is not None:
            yield f"eval_reward: {entry.name} has weight or normalize, and each judge is reported alone: leave them out"
        if entry.kind == "cost":
            yield f"eval_reward: {entry.name} is of kind cost: a second judge gives more to better answers"
        if entry.is_model and v.overwrite_output_dir and Path(entry.name).is_relative_to(v.output_dir):
            yield f"overwrite_output_dir=true would delete {entry.name} of eval_reward; name another folder"


def check_deciding_metric(v: Values) -> Iterator[str]:
    """Check that greedy answers which are to choose the best weights are made and scored."""
    decides = v.load_best_model_at_end or v.early_stopping or v.on_reward_hacking == "stop_at_best"
    name = evaluated_name(v.metric_for_best_model or "")
    if decides and name.startswith(GREEDY) and not (v.eval_greedy and v.eval_do_sample):
        yield (
            f"metric_for_best_model={v.metric_for_best_model} is a score of greedy answers beside sampled ones: give "
            f"eval_greedy=true and eval_do_sample=true, or metric_for_best_model={name.removeprefix(GREEDY)}"
        )


def check_reward_server(v: Values) -> Iterator[str]:
    """Check that a reward service has an address."""
    if v.use_rm_server and not v.reward_server:
        yield "use_rm_server=true needs reward_server=http://host:port/path"
    if v.reward_server and not v.reward_server.startswith(("http://", "https://")):
        yield f"reward_server={v.reward_server!r} must begin with http:// or https://"


def check_reference_server(v: Values) -> Iterator[str]:
    """Check that the reference's server has an address."""
    if v.reference_server and not v.reference_server.startswith(("http://", "https://")):
        yield f"reference_server={v.reference_server!r} must begin with http:// or https://"


def check_models(v: Values) -> Iterator[str]:
    """Check that a run does not delete its models."""
    yield from find_replaced(v, "actor_model_name_or_path", "reward_model_name_or_path")


def check_critic_model(v: Values) -> Iterator[str]:
    """Check that the critic has a score model to start from, which the run does not delete."""
    yield from find_replaced(v, "reward_critic_model_name_or_path")
    if v.reward_critic_model_name_or_path:
        return
    has_model = any(entry.kind == "model" for entry in read_entries(v.reward_sources)) or v.reward_model_name_or_path
    if v.critic_init == "reward_model" and not has_model:
        yield (
            "without reward_model_name_or_path the critic needs reward_critic_model_name_or_path to start from, or "
            "critic_init=policy (or scratch)"
        )
    if v.critic_init == "scratch" and v.lora:
        yield "critic_init=scratch with lora=true would freeze random weights: give critic_init=policy, or lora=false"


def check_cost_models(v: Values) -> Iterator[str]:
    """Check that a run does not delete its cost models, and that lambda starts below its limit."""
    yield from find_replaced(v, "cost_model_name_or_path", "cost_critic_model_name_or_path")
    if v.lambda_max is not None and v.lambda_init > v.lambda_max:
        yield f"lambda_init={v.lambda_init:g} exceeds lambda_max={v.lambda_max:g}"


def check_lower_clip(v: Values) -> Iterator[str]:
    """Check that the lower limit of the probability ratio is positive."""
    if v.clip_range_ratio >= 1 and v.clip_range_ratio_low is None:
        yield f"clip_range_ratio={v.clip_range_ratio:g} must be below 1, or give clip_range_ratio_low below 1"


def check_entropy_limits(v: Values) -> Iterator[str]:
    """Check that the adaptive weight of the entropy starts within its limits."""
    low, start, high = v.entropy_coeff_min, v.entropy_coeff, v.entropy_coeff_max
    if v.use_adaptive_entropy and not low <= start <= high:
        yield (
            f"use_adaptive_entropy=true needs entropy_coeff_min <= entropy_coeff <= entropy_coeff_max, got {low:g}, "
            f"{start:g}, {high:g}"
        )


def check_critic_schedule(v: Values) -> Iterator[str]:
    """Check the critic's learning rates and decay."""
    rate = v.learning_rate if v.critic_learning_rate is None else v.critic_learning_rate
    floor = v.min_learning_rate if v.critic_min_learning_rate is None else v.critic_min_learning_rate
    is_own = v.critic_learning_rate is not None or v.critic_min_learning_rate is not None
    if is_own and floor is not None and floor > rate:
        yield f"the critic's minimum learning rate {floor:g} (critic_min_learning_rate) exceeds its peak {rate:g}"
    if v.critic_decay_steps is not None and v.critic_decay_steps <= v.warmup_steps:
        yield f"critic_decay_steps={v.critic_decay_steps} must be above warmup_steps={v.warmup_steps}"


def check_sampling(v: Values) -> Iterator[str]:
    """Check that several responses to a prompt can differ."""
    if v.num_return_sequences > 1 and v.top_k == 1:
        yield f"num_return_sequences={v.num_return_sequences} with top_k=1 would give equal responses"


def check_hacking_action(v: Values) -> Iterator[str]:
    """Check that what is to be done about a hacked reward can be done."""
    action, in_loss = v.on_reward_hacking, v.get("use_kl_loss", True) and v.get("kl_loss_coeff", 0)
    if action == "raise_kl" and not v.kl_coeff and not in_loss:
        yield "on_reward_hacking=raise_kl doubles the KL coefficients, and all are 0: give kl_coeff (or kl_loss_coeff)"
    if action == "raise_kl" and v.kl_target is not None:
        yield "on_reward_hacking=raise_kl with kl_target, which sets the coefficient: give a lower kl_target instead"
    if action == "stop_at_best" and v.evaluation_strategy == "no":
        yield "on_reward_hacking=stop_at_best needs evaluations to choose from: give evaluation_strategy=steps or epoch"


def check_terms(v: Values) -> Iterator[str]:
    """Check that the buffer fits a response, and that patterns and tags can be looked for."""
    room = v.max_dec_len or v.max_length - 1
    if v.enable_overlong_reward_buffer and v.overlong_reward_buffer >= room:
        limit = "max_dec_len" if v.max_dec_len else "max_length - 1"
        yield (
            f"overlong_reward_buffer={v.overlong_reward_buffer} must be below {limit}={room}: every response would be "
            "punished"
        )
    if v.reward_format_pattern:
        try:
            re.compile(v.reward_format_pattern)
        except re.error as error:
            yield f"reward_format_pattern={v.reward_format_pattern!r} is not a regular expression: {error}"
    wrong = [tag for tag in v.reward_format_tags or () if not re.fullmatch(r"[A-Za-z][\w\-]*", tag)]
    if wrong:
        yield f"reward_format_tags: {wrong[0]!r} is not the name of a tag; write think,answer for <think> and <answer>"


CHECKS: tuple[Check, ...] = (
    check_batches,
    check_token_budget,
    check_response_lengths,
    check_minimum_response,
    check_reward_source,
    check_reward_sources,
    check_judges,
    check_deciding_metric,
    check_reward_server,
    check_reference_server,
    check_critic_model,
    check_models,
    check_cost_models,
    check_lower_clip,
    check_entropy_limits,
    check_critic_schedule,
    check_sampling,
    check_hacking_action,
    check_terms,
)
