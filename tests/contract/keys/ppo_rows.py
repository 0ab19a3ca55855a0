"""Keys of on-policy training: rollouts, rewards, the algorithm's numbers and the critic."""

from __future__ import annotations

from typing import Any

from alignment.rollout.merging_engine import MergingEngine
from alignment.rollout.rewards.text_batch import TextBatch
from tests.contract.keys.assembled import Run
from tests.contract.keys.data_rows import ROLE_SCORES
from tests.contract.keys.rows import EVALUATED, Row, plan

PPO = ("ppo",)
MODEL = {"reward_model_name_or_path": "{reward}"}
FUNCTION = {"reward_model_name_or_path": None, "reward_function": "{function.py}:score"}
FUNCTION |= {"reward_critic_model_name_or_path": "{reward}"}
SERVER = {"reward_model_name_or_path": None, "reward_critic_model_name_or_path": "{reward}", "use_rm_server": True}
SEVERAL = {"reward_model_name_or_path": None, "reward_sources": "{reward},{function.py}:score,http://localhost:9/score"}
SERVER |= {"reward_server": "http://localhost:9/score"}

ADAPTIVE = {"use_adaptive_entropy": True}
STARTED = {**ADAPTIVE, "entropy_coeff": 0.25}


def _row(key: str, value: Any, observe: Any, *expected: Any, **options: Any) -> Row:
    return Row(key, value, observe, *expected, only=PPO, **options)


def _numbers(run: Run) -> Any:
    """The algorithm's; estimate and losses must read the same ones."""
    assert run.loop.hyperparameters == run.loop.updater.hyperparameters
    return run.loop.hyperparameters


def _options(run: Run) -> Any:
    """Of rollouts; evaluation has the same ones but for how it samples."""
    return run.loop.collector.options


def _both(name: str) -> Any:
    return lambda r: [getattr(options, name) for options in (_options(r), r.evaluation.options)]


def _engine(run: Run) -> Any:
    """The engine itself, where the policy has an adapter too."""
    engine = run.loop.engine.engine
    return engine.inner if isinstance(engine, MergingEngine) else engine


def _replays(run: Run) -> tuple[bool, bool, bool]:
    """Whether rollouts record experts, and whether those are compared, and replayed by the policy."""
    loop = run.loop
    replay = loop.judge.replay
    return loop.collector.options.routed_experts, replay is not None, loop.judge.policy.model.model.replay is replay


def _scorer(run: Run) -> Any:
    return run.loop.judge.scorer


def _asked(run: Run) -> Any:
    """The client of the reference's server."""
    return run.loop.judge.reference.__self__


def _critic(run: Run) -> Any:
    return run.critic.schedule


def _start_of_critic(run: Run) -> tuple[str, int | None]:
    """The folder it was read from, and the seed of its score head."""
    call = run.call("runs.on_policy.roles.load_score_model")
    return str(call[0]), call["seed"]


def _temperatures(run: Run) -> list[float]:
    judges = run.loop.judge.temperature, run.evaluation.judge.temperature
    return [*_both("temperature")(run), plan(run).temperature, *judges]


def _normalized(run: Run) -> tuple[bool, bool]:
    """In training and in evaluation, which neither changes what is reported nor learns."""
    return run.loop.judge.normalize is not None, run.evaluation.judge.normalize is not None


ROLLOUT = (
    _row("remove_same_inputs", False, lambda r: r.dataset.options.keeps_duplicates, True),
    _row("per_device_prompt_batch_size", 8, lambda r: r.loader.batch_size, alone=True),
    _row("global_batch_size", 8, lambda r: r.loader.batch_size, alone=True),
    _row(
        "global_mini_batch_size", 4, lambda r: plan(r).rows_per_update, 8, with_={"num_return_sequences": 2}, alone=True
    ),
    _row("num_return_sequences", 3, lambda r: r.loop.collector._samples, alone=True),
    _row("per_device_rollout_batch_size", 3, lambda r: _engine(r)._settings.num_slots),
    _row(
        "per_device_rollout_batch_size", 2, lambda r: _engine(r)._max_batch_rows, with_={"use_fusemt": False},
        alone=True,
    ),
    _row("per_device_logprob_batch_size", 3, lambda r: r.loop.judge.logprob_rows),
    _row("per_device_value_batch_size", 7, lambda r: r.loop.judge.value_rows),
    _row("per_device_reward_batch_size", 5, lambda r: _scorer(r)._rows_per_batch, with_=MODEL),
    _row("update_iters", 2, lambda r: plan(r).num_epochs),
    _row("use_fusemt", False, lambda r: type(_engine(r)).__name__, "EagerEngine", alone=True),
    _row("rollout_weight_type", "bfloat16", lambda r: _engine(r)._settings.weight_type),
    _row("rollout_kv_type", "bfloat16", lambda r: _engine(r)._settings.kv_type),
    _row("rollout_kv_memory", "3MiB", lambda r: _engine(r)._settings.kv_bytes, 3 * 2**20),
    _row("speculative_tokens", 3, lambda r: _engine(r)._settings.speculative_tokens),
    _row(
        "speculative_method", "previous", lambda r: _engine(r)._settings.speculative_method,
        with_={"speculative_tokens": 3},
    ),
    _row("logprob_gap_limit", 0.125, lambda r: r.loop.gate.limit),
    _row(
        "logprob_gap_limit", 0.125, lambda r: r.loop.judge.check.limit,
        with_={"use_rollout_logprobs": True, "logprob_check_rows": 1}, alone=True,
    ),
    _row(
        "use_rollout_logprobs", False, lambda r: r.loop.judge.check, None,
        with_={"per_device_prompt_batch_size": 12}, alone=True,
    ),
    _row(
        "logprob_check_rows", 2, lambda r: r.loop.judge.check.num_rows, with_={"use_rollout_logprobs": True},
        alone=True,
    ),
    _row(
        "values_from_update", False, lambda r: (r.loop.values_from_update, r.loop.judge.critic is None), (False, False),
        with_={"per_device_prompt_batch_size": 8, "per_device_train_batch_size": 8, "num_return_sequences": 1,
               "gradient_accumulation_steps": 1, "update_iters": 1},
        alone=True,
    ),
    _row("on_logprob_gap", "correct", lambda r: r.loop.gate.action),
    _row(
        "use_rollout_routing_replay", True, _replays, (True, True, True),
        with_={"actor_model_name_or_path": "{mixture}"},
    ),
    _row("on_reward_hacking", "stop_at_best", lambda r: r.session.alarm.stops, True, with_=EVALUATED, alone=True),
    _row("rollout_ahead", 1, lambda r: (r.loop.ahead.is_on, r.loop.gate.weighs_all), (True, True)),
    _row("importance_weight_cap", 1.5, lambda r: r.loop.gate.weight_cap, with_={"on_logprob_gap": "correct"}),
    _row("temperature", 0.7, _temperatures, [0.7] * 5, with_=EVALUATED),
    _row("top_p", 0.9, _both("top_p"), [0.9] * 2, with_=EVALUATED),
    _row("top_k", 5, _both("top_k"), [5] * 2, with_=EVALUATED),
    _row("repetition_penalty", 1.2, _both("repetition_penalty"), [1.2] * 2, with_=EVALUATED),
    _row("max_dec_len", 9, _both("max_new_tokens"), [9] * 2, with_=EVALUATED),
    _row("min_dec_len", 2, _both("min_new_tokens"), [2] * 2, with_=EVALUATED),
    _row(
        "stop_token_ids", "11", lambda r: [11 in ids for ids in _both("stop_token_ids")(r)], [True] * 2,
        with_=EVALUATED,
    ),
    _row("eval_do_sample", False, _both("do_sample"), [True, False], with_=EVALUATED),
    _row("eval_greedy", True, lambda r: (r.evaluation.with_greedy, r.evaluation.options.do_sample), (True, True),
         with_=EVALUATED, alone=True),
)  # fmt: skip

REFERENCE = {"reference_server": "http://localhost:9/"}
REWARDS = (
    _row(
        "reference_server", "http://localhost:9/", lambda r: _asked(r).service.url, "http://localhost:9/logprobs",
        alone=True,
    ),
    _row("reference_timeout", 7.5, lambda r: _asked(r).service.timeout_seconds, with_=REFERENCE, alone=True),
    _row("reference_retries", 5, lambda r: _asked(r).limits.retries, with_=REFERENCE, alone=True),
    _row(
        "reward_function", "{function.py}:score",
        lambda r: _scorer(r)._call(TextBatch("prompts", "responses", "labels")),
        (7.0, "prompts", "responses", "labels"), with_=FUNCTION, alone=True,
    ),
    _row("use_rm_server", True, lambda r: type(_scorer(r)._call).__name__, "HttpReward", with_=SERVER),
    _row("reward_server", "http://localhost:9/score", lambda r: _scorer(r)._call.service.url, with_=SERVER),
    _row("reward_timeout", 7.5, lambda r: _scorer(r)._call.service.timeout_seconds, with_=SERVER),
    _row("reward_retries", 5, lambda r: _scorer(r)._policy.retries, with_=SERVER),
    _row("on_reward_failure", "mask_group", lambda r: _scorer(r)._policy.on_failure, with_=SERVER),
    _row("score_before_padding", True, lambda r: type(_scorer(r)._sequences).__name__, "BeforePadding", with_=MODEL),
    _row(
        "reward_attribute_weights", [1.0, -2.0],
        lambda r: [r.call(name)["stored_head"].weights for name in ROLE_SCORES],
        [(1.0, -2.0)] * 2, with_={"reward_model_name_or_path": "{two scores}"}, alone=True,
    ),
    _row(
        "reward_sources", SEVERAL["reward_sources"],
        lambda r: [(type(s.scorer).__name__, s.log_as, s.factor) for s in _scorer(r).sources][1:]
        + [_scorer(r).sources[0].scorer._runner.model.kind],
        [("TextScorer", "score", 1.0), ("TextScorer", "localhost", 1.0), "score"],
        with_={"reward_model_name_or_path": None}, alone=True,
    ),
    _row(
        "reward_sources", "{compares},{reward}",
        lambda r: [type(judge.scorer.sources[0].scorer).__name__ for judge in (r.loop.judge, r.evaluation.judge)],
        ["PairwiseScorer", "StartScorer"],
        with_={**EVALUATED, "reward_model_name_or_path": None, "num_return_sequences": 2}, alone=True,
    ),
    _row(
        "reward_weights", [2.0, -0.5, 0.0], lambda r: [s.factor for s in _scorer(r).sources], [2.0, -0.5, 0.0],
        with_=SEVERAL, alone=True,
    ),
    _row("eval_reward", "{function.py}:truth", lambda r: [*r.evaluation.judges, *r.session.alarm.judges],
         ["truth"] * 2, with_=EVALUATED, alone=True),
    _row("normalize_reward", True, _normalized, (True, False), with_=EVALUATED),
)  # fmt: skip

BUFFER = {"enable_overlong_reward_buffer": True, "overlong_reward_buffer": 5}


def _terms(run: Run) -> Any:
    """The numbers of all terms; training and evaluation add the same ones."""
    assert run.evaluation is None or run.evaluation.judge.terms.numbers == run.loop.judge.terms.numbers
    return run.loop.judge.terms.numbers


TERMS = (
    _row("missing_eos_penalty", 1.5, lambda r: _terms(r)["missing_eos"]["penalty"]),
    _row("stop_properly_penalty_coef", 0.25, lambda r: _terms(r)["stop_properly"]["coef"]),
    _row("enable_overlong_reward_buffer", True, lambda r: "overlong" in _terms(r), with_=BUFFER),
    _row("overlong_reward_buffer", 5, lambda r: _terms(r)["overlong"]["buffer"], with_=BUFFER),
    _row("overlong_penalty_factor", 0.75, lambda r: _terms(r)["overlong"]["factor"], with_=BUFFER),
    _row("length_penalty_coeff", 0.125, lambda r: _terms(r)["length"]["coeff"]),
    _row("reward_format_pattern", "a+", lambda r: _terms(r)["format"]["pattern"]),
    _row("reward_format_tags", ["think", "answer"], lambda r: list(_terms(r)["tags"]["tags"])),
    _row(
        "reward_format_weight", 0.5, lambda r: [_terms(r)[name]["weight"] for name in ("format", "tags")], [0.5, 0.5],
        with_={"reward_format_pattern": "a+", "reward_format_tags": ["think", "answer"]},
    ),
)  # fmt: skip

FEW = {"gradient_accumulation_steps": 1}
LAGRANGIAN = {"rl_algorithm": "ppo_lagrangian", "cost_model_name_or_path": "{cost}"}
LAGRANGIAN |= {"lambda_max": 4.0, "threshold": -0.25}
CONSTRAINT = (
    *(
        _row(key, value, lambda r, name=name: getattr(r.loop.multiplier, name), with_=LAGRANGIAN)
        for key, value, name in (
            ("threshold", -0.25, "threshold"), ("lambda_init", 0.5, "initial"), ("lambda_lr", 0.03, "learning_rate"),
            ("lambda_max", 4.0, "maximum"), ("lambda_update_delay_steps", 3, "delay"),
            ("episode_cost_window_size", 17, "window"),
        )
    ),
    _row("clip_range_cost", 9.0, lambda r: _numbers(r).clip_range_cost, with_=LAGRANGIAN),
    _row(
        "cost_model_name_or_path", "{cost}", lambda r: r.call("runs.on_policy.roles.load_score_model", 1)[0],
        with_=LAGRANGIAN, alone=True,
    ),
    _row(
        "cost_critic_model_name_or_path", "{other reward}",
        lambda r: r.call("runs.on_policy.roles.load_score_model", 2)[0], with_=LAGRANGIAN, alone=True,
    ),
    _row(
        "normalize_cost", True, lambda r: [j.normalize_cost is not None for j in (r.loop.judge, r.evaluation.judge)],
        [True, True], with_={**LAGRANGIAN, **EVALUATED, "cost_model_name_or_path": "{scaled cost}"}, alone=True,
    ),
)  # fmt: skip

GRPO = {"rl_algorithm": "grpo", "num_return_sequences": 2}
SAPO = {**GRPO, "rl_algorithm": "sapo"}
ALGORITHM = (
    _row(
        "rl_algorithm", "grpo", lambda r: (r.loop.algorithm.name, r.loop.updater.algorithm.name), ("grpo",) * 2,
        with_={"num_return_sequences": 2}, alone=True,
    ),
    _row("preset", "verl", lambda r: (_numbers(r).dual_clip, _critic(r).peak), (3.0, 1e-5), with_=FEW, alone=True),
    _row("advantage_variance", "biased", lambda r: _numbers(r).advantage_variance, with_={"normalize_advantage": True}),
    _row("kl_limit", 9.0, lambda r: _numbers(r).kl_limit),
    _row("group_epsilon", 1e-4, lambda r: _numbers(r).group_epsilon, with_=GRPO, alone=True),
    _row("use_kl_loss", True, lambda r: _numbers(r).kl_loss_weight, 0.001, alone=True),
    _row("kl_loss_coeff", 0.5, lambda r: _numbers(r).kl_loss_weight, with_={"use_kl_loss": True}, alone=True),
    _row("kl_loss_estimator", "k2", lambda r: _numbers(r).kl_loss_estimator, with_={"use_kl_loss": True}),
    _row("importance_sampling_level", "sequence_product", lambda r: _numbers(r).ratio_clip.level, alone=True),
    _row("use_adaptive_entropy", True, lambda r: plan(r).with_entropy and r.loop.updater.entropy is not None),
    _row("entropy_target", 0.7, lambda r: r.loop.updater.entropy.target, with_=ADAPTIVE),
    _row("entropy_coeff_delta", 0.25, lambda r: r.loop.updater.entropy.step, with_=ADAPTIVE),
    _row("entropy_coeff_min", 0.005, lambda r: r.loop.updater.entropy.minimum, with_=STARTED),
    _row("entropy_coeff_max", 0.75, lambda r: r.loop.updater.entropy.maximum, with_=ADAPTIVE),
    _row("kl_loss_coeff", 0.25, lambda r: _numbers(r).kl_loss_coeff, with_=GRPO, alone=True),
    _row("pg_loss_coeff", 0.5, lambda r: _numbers(r).pg_loss_coeff, with_=GRPO, alone=True),
    _row("kl_loss_estimator", "k3+", lambda r: _numbers(r).kl_loss_estimator, with_=GRPO, alone=True),
    _row(
        "importance_sampling_level", "sequence", lambda r: _numbers(r).importance_sampling_level, with_=GRPO,
        alone=True,
    ),
    _row("ratio_cap", 2.5, lambda r: _numbers(r).ratio_cap, with_={**GRPO, "rl_algorithm": "cispo"}, alone=True),
    _row("sapo_temperature_pos", 2.0, lambda r: _numbers(r).sapo_temperature_pos, with_=SAPO, alone=True),
    _row("sapo_temperature_neg", 3.0, lambda r: _numbers(r).sapo_temperature_neg, with_=SAPO, alone=True),
    _row("mask_truncated_completions", True, lambda r: _numbers(r).mask_truncated_completions),
    _row(
        "dynamic_sampling", True, lambda r: r.loop.dynamic is not None, with_={"num_return_sequences": 2}, alone=True
    ),
    _row(
        "max_gen_batches", 5, lambda r: r.loop.dynamic.max_batches,
        with_={"num_return_sequences": 2, "dynamic_sampling": True}, alone=True,
    ),
    _row("scale_rewards", "none", lambda r: _numbers(r).scale_rewards, with_=GRPO, alone=True),
    _row("kl_coeff", 0.07, lambda r: (r.loop.kl.coefficient, _numbers(r).kl_coeff), (0.07, 0.07)),
    _row("kl_estimator", "k3", lambda r: _numbers(r).kl_estimator),
    _row("kl_target", 3.0, lambda r: r.loop.kl.target),
    _row("kl_horizon", 77.0, lambda r: r.loop.kl.horizon, with_={"kl_target": 3.0}),
    _row("gamma", 0.9, lambda r: _numbers(r).gamma),
    _row("gae_lambda", 0.8, lambda r: _numbers(r).gae_lambda),
    _row("gae_lambda_value", 0.9, lambda r: _numbers(r).gae_lambda_value),
    _row("gae_lambda_alpha", 0.05, lambda r: _numbers(r).gae_lambda_alpha, with_={"gae_lambda_value": 0.9}, alone=True),
    _row("normalize_advantage", True, lambda r: _numbers(r).normalize_advantage),
    _row(
        "clip_range_ratio", 0.25, lambda r: (_numbers(r).ratio_clip.low, _numbers(r).ratio_clip.high),
        (0.25, 0.25), alone=True,
    ),
    _row("clip_range_ratio_low", 0.1, lambda r: _numbers(r).ratio_clip.low),
    _row("clip_range_ratio_high", 0.3, lambda r: _numbers(r).ratio_clip.high),
    _row("dual_clip", 3.0, lambda r: _numbers(r).ratio_clip.dual),
    _row("clip_range_score", 4.0, lambda r: _numbers(r).clip_range_score),
    _row("clip_range_score", 4.5, lambda r: _numbers(r).clip_range_score, with_=GRPO, alone=True),
    _row("normalize_advantage", True, lambda r: _numbers(r).normalize_advantage, with_=GRPO, alone=True),
    _row("kl_coeff", 0.06, lambda r: [r.loop.kl.coefficient, _numbers(r).kl_coeff], [0.06] * 2, with_=GRPO, alone=True),
    _row("clip_placement", "token", lambda r: _numbers(r).clip_placement),
    _row("clip_range_value", 0.7, lambda r: _numbers(r).clip_range_value),
    _row("clip_range_value", "null", lambda r: _numbers(r).clip_range_value, None, alone=True),
    _row("target_kl", 0.03, lambda r: (_numbers(r).target_kl, plan(r).target_kl), (0.03, 0.03)),
    _row("use_ema", True, lambda r: (*r.state.averages, r.loop.updater.average is not None), ("policy_ema", True)),
    _row("ema_beta", 0.5, lambda r: float(r.loop.updater.average._beta), with_={"use_ema": True}),
    _row("policy_loss_reduction", "sequence", lambda r: _numbers(r).policy_loss_reduction),
    _row("loss_length", 40, lambda r: _numbers(r).loss_length, with_={"policy_loss_reduction": "constant"}),
    _row("entropy_coeff", 0.01, lambda r: (_numbers(r).entropy_coeff, plan(r).with_entropy), (0.01, True)),
    _row("ptx_coeff", 0.5, lambda r: plan(r).ptx_coeff, with_={"ptx_datasets": "packing-sft/test:8/-1"}),
    _row(
        "ptx_datasets", "packing-sft/test:8/-1", lambda r: len(r.state.parts["ptx"].read.__self__.samples), 8,
        with_={"ptx_coeff": 0.5},
    ),
    _row(
        "placement", {"policy": [0], "critic": [0], "reference": "policy", "reward": "critic"},
        lambda r: (sorted(r.loop.judge.ranks), r.loop.updater.ranks["critic"].ranks),
        (["critic", "policy", "reference", "reward", "rollout"], (0,)), alone=True,
    ),
)  # fmt: skip

CRITIC = (
    _row("critic_init", "policy", _start_of_critic, ("{policy}", 42), alone=True),
    _row("freezing_actor_steps", 2, lambda r: plan(r).frozen_updates, alone=True),
    _row("critic_learning_rate", 7e-4, lambda r: _critic(r).peak),
    _row("critic_min_learning_rate", 7e-6, lambda r: _critic(r).floor),
    _row("critic_lr_scheduler_type", "polynomial", lambda r: _critic(r).kind),
    _row("critic_warmup_ratio", 0.5, lambda r: _critic(r).warmup_updates, 3, alone=True),
    _row("critic_decay_steps", 4, lambda r: _critic(r).decay_updates),
    _row("critic_weight_decay", 0.125, lambda r: r.critic._optimizer._optimizer._weight_decay),
    _row("critic_recompute", True, lambda r: r.critic.runner.model.model.recompute),
    _row(
        "critic_recompute_granularity", "full_attn", lambda r: r.critic.runner.model.model.recompute_granularity,
        with_={"critic_recompute": True},
    ),
)  # fmt: skip
ROWS = (*ROLLOUT, *REWARDS, *TERMS, *ALGORITHM, *CRITIC, *CONSTRAINT)
