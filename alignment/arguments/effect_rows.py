"""The table behind ``effects``: a key, when it does nothing or cannot be honoured, and why.

Keys that never have an effect are declared with ``inert`` or ``refused`` beside their field instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Situation(NamedTuple):
    """What a row may look at."""

    device: str
    """``cpu`` or ``gpu``."""
    world_size: int
    """Number of processes."""
    values: Mapping[str, Any]
    """Every key of the run."""


class Row(NamedTuple):
    """One line of the table."""

    key: str
    when: Callable[[Any, Situation], bool]
    """Whether the row holds for the key's value in this situation."""
    message: str
    refuse: bool = False
    """True: the run stops; False: the line is printed."""
    even_default: bool = False
    """True: also when the user did not give the key."""


def _is_layout_of_one(value: Any, s: Situation) -> bool:
    return bool(value) and value not in (-1, 1) and s.world_size == 1


def _is_more_than_one(value: Any, s: Situation) -> bool:
    return value > 1


def _never_generates(value: Any, s: Situation) -> bool:
    return bool(value) and value != -1 and "num_return_sequences" not in s.values


def _has_no_tensor_parallelism(value: Any, s: Situation) -> bool:
    return bool(value) and s.values["tensor_parallel_degree"] < 2


def _on_cpu(value: Any, s: Situation) -> bool:
    return bool(value) and s.device == "cpu"


def _off_cpu(value: Any, s: Situation) -> bool:
    return bool(value) and s.device != "cpu"


def _bf16_without_o2(value: Any, s: Situation) -> bool:
    return _off_cpu(value, s) and s.values["fp16_opt_level"] != "O2"


def _level_without_bf16(value: Any, s: Situation) -> bool:
    return value != "O1" and (s.device == "cpu" or not s.values["bf16"])


def _no_evaluation(value: Any, s: Situation) -> bool:
    return not s.values["do_eval"] and s.values["evaluation_strategy"] == "no" and s.values["do_train"]


def _asks_but_never_evaluates(value: Any, s: Situation) -> bool:
    return bool(value) and s.values["evaluation_strategy"] == "no"


def _is(key: str, *words: Any) -> Callable[[Any, Situation], bool]:
    """The key is set and ``key`` holds one of ``words``."""
    return lambda value, s: value not in (None, 0) and s.values[key] in words


def _is_not(key: str, *words: Any) -> Callable[[Any, Situation], bool]:
    """The key is set and ``key`` holds none of ``words``."""
    return lambda value, s: value is not None and s.values[key] not in words


def _is_set(key: str) -> Callable[[Any, Situation], bool]:
    return lambda value, s: value is not None and bool(s.values[key])


def _is_shared(key: str) -> Callable[[Any, Situation], bool]:
    """``key``, a size over all processes, takes the place of this one."""
    return lambda value, s: s.values.get(key, -1) > 0


def _shards_nothing(value: Any, s: Situation) -> bool:
    return value > 1 and s.world_size > 1 and not s.values["sharding"]


def _critic_keeps_activations(value: Any, s: Situation) -> bool:
    recompute = s.values["critic_recompute"]
    return value is not None and not (s.values["recompute"] if recompute is None else recompute)


def _critic_is_constant(value: Any, s: Situation) -> bool:
    kind = s.values["critic_lr_scheduler_type"] or s.values["lr_scheduler_type"]
    return bool(value) and kind in ("constant", "constant_with_warmup")


def _critic_does_not_warm_up(value: Any, s: Situation) -> bool:
    kind = s.values["critic_lr_scheduler_type"] or s.values["lr_scheduler_type"]
    return bool(value) and (kind == "constant" or s.values["warmup_steps"] > 0)


_CPU_FLOAT = "the CPU computes in float32"
_FLAT = ("constant", "constant_with_warmup")
_NO_EVAL = "nothing is evaluated (evaluation_strategy is no and do_eval is false)"
_ONE = "this run has one process"
_SEQUENCE_AXIS = "sequences are not split over processes; rows are, by tensor, pipeline and data parallelism"
_NOT_CALLED = "rewards come from a model, which is not called over a network and not retried"

_LAYOUT_KEYS = (
    "tensor_parallel_degree",
    "pipeline_parallel_degree",
    "virtual_pp_degree",
    "sharding_parallel_degree",
    "sharding",
    "eval_mode",
    "rollout_tensor_parallel_degree",
)
_ROLLOUT_KEYS = ("eval_mode", "rollout_tensor_parallel_degree", "distributed_dry_run")
_EVALUATION_KEYS = ("eval_datasets", "eval_split", "eval_split_ratio", "per_device_eval_batch_size", "eval_do_sample")

_ENGINE_KEYS = ("rollout_weight_type", "rollout_kv_type", "rollout_kv_memory")

ROWS: tuple[Row, ...] = (
    *(Row(key, _is_layout_of_one, _ONE) for key in _LAYOUT_KEYS),
    Row("sep_parallel_degree", _is_more_than_one, _SEQUENCE_AXIS, refuse=True),
    Row("context_parallel_degree", _is_more_than_one, _SEQUENCE_AXIS, refuse=True),
    Row("expert_parallel_degree", _is_more_than_one, "the supported models have no experts", refuse=True),
    *(Row(key, _never_generates, "this trainer has no rollouts") for key in _ROLLOUT_KEYS),
    Row("sequence_parallel", _has_no_tensor_parallelism, "tensor_parallel_degree is 1"),
    Row("sharding_parallel_degree", _shards_nothing, "sharding names no stage (stage1, stage2 or stage3)"),
    Row("use_native_ops", _off_cpu, "the compiled operators are for the CPU"),
    Row("recompute_granularity", _is("recompute", False), "recompute is false"),
    Row("critic_recompute_granularity", _critic_keeps_activations, "the critic does not recompute"),
    Row("rollout_tensor_parallel_degree", _is_not("eval_mode", "tensor_parallel"), "eval_mode is not tensor_parallel"),
    *(Row(key, _no_evaluation, _NO_EVAL) for key in _EVALUATION_KEYS),
    *(Row(key, _is("use_fusemt", False), "use_fusemt is false") for key in _ENGINE_KEYS),
    Row("bf16", _on_cpu, _CPU_FLOAT),
    Row("bf16", _bf16_without_o2, "mixed precision by operator is not built; add fp16_opt_level=O2", refuse=True),
    Row("fp16_opt_level", _level_without_bf16, f"it only matters with bf16 on a GPU ({_CPU_FLOAT})"),
    Row("num_train_epochs", lambda value, s: s.values["max_steps"] > 0, "max_steps is given and wins"),
    Row("eval_steps", _is_not("evaluation_strategy", "steps"), "evaluation_strategy is not steps"),
    Row("save_steps", _is_not("save_strategy", "steps"), "save_strategy is not steps"),
    Row("save_total_limit", _is("save_strategy", "no"), "save_strategy is no"),
    Row("warmup_ratio", _is("lr_scheduler_type", "constant"), "a constant learning rate has no warm-up"),
    Row("warmup_ratio", lambda value, s: value > 0 and s.values["warmup_steps"] > 0, "warmup_steps is given and wins"),
    Row("warmup_steps", _is("lr_scheduler_type", "constant"), "a constant learning rate has no warm-up"),
    Row("min_learning_rate", _is("lr_scheduler_type", *_FLAT), "the learning rate does not decay"),
    Row("decay_steps", _is("lr_scheduler_type", *_FLAT), "the learning rate does not decay"),
    Row("load_best_model_at_end", _asks_but_never_evaluates, "nothing is evaluated and no checkpoint is written"),
    Row("metric_for_best_model", _is("load_best_model_at_end", False), "load_best_model_at_end is false"),
    Row(
        "greater_is_better", lambda value, s: not s.values["load_best_model_at_end"], "load_best_model_at_end is false"
    ),
    Row("per_device_prompt_batch_size", _is_shared("global_batch_size"), "global_batch_size wins"),
    Row("gradient_accumulation_steps", _is_shared("global_mini_batch_size"), "global_mini_batch_size wins"),
    Row("eval_split_ratio", _is_set("eval_datasets"), "eval_datasets is given and wins"),
    Row("ptx_datasets", _is("ptx_coeff", 0), "ptx_coeff is 0"),
    Row("ptx_coeff", _is("ptx_datasets", None), "ptx_datasets is not given"),
    Row("kl_horizon", _is("kl_target", None), "kl_target is not given: kl_coeff stays"),
    Row("importance_weight_cap", _is_not("on_logprob_gap", "correct"), "on_logprob_gap is not correct"),
    Row("clip_range_ratio", lambda value, s: _has_both_clips(s), "clip_range_ratio_low and clip_range_ratio_high win"),
    Row("critic_min_learning_rate", _critic_is_constant, "the critic's learning rate does not decay"),
    Row("critic_decay_steps", _critic_is_constant, "the critic's learning rate does not decay"),
    Row("critic_warmup_ratio", _critic_does_not_warm_up, "the critic's schedule is constant, or warmup_steps wins"),
    Row("reward_server", _is("use_rm_server", False), "use_rm_server is false"),
    Row("reward_timeout", _is("use_rm_server", False), "use_rm_server is false"),
    Row("reward_retries", _is_set("reward_model_name_or_path"), _NOT_CALLED),
    Row("on_reward_failure", _is_set("reward_model_name_or_path"), _NOT_CALLED),
    Row("per_device_reward_batch_size", _is("reward_model_name_or_path", None), "there is no reward model"),
    Row("score_before_padding", _is("reward_model_name_or_path", None), "there is no reward model"),
    Row(
        "normalizer_momentum", _is_not("normalizer_type", "ExponentialMovingAverage"), "normalizer_type does not use it"
    ),
    Row("regularization_convention", _is("regularization", 0), "regularization is 0"),
)


def _has_both_clips(s: Situation) -> bool:
    return s.values["clip_range_ratio_low"] is not None and s.values["clip_range_ratio_high"] is not None
