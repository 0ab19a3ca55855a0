"""What every key of a trainer's own is when nobody gives it, and which keys name folders and files."""

from __future__ import annotations

import dataclasses
import json

import pytest

from alignment.errors import ArgumentError
from alignment.trainers.registered import TRAINERS

PARSERS = {name: TRAINERS[name].parse for name in TRAINERS}
GIVEN = dict.fromkeys(PARSERS, {"train_datasets": "d", "model_name_or_path": "m", "output_dir": "o"}) | {
    "kd": {"train_datasets": "d", "model_name_or_path": "m", "teacher_model_name_or_path": "t", "output_dir": "o"},
    "ppo": {
        "train_datasets": "d",
        "actor_model_name_or_path": "m",
        "reward_model_name_or_path": "r",
        "output_dir": "o",
    },
}
SHARED = {
    "max_length": 2048, "max_prompt_len": None, "on_overlong": "drop", "on_bad_row": "drop", "chat_template": "none",
    "eval_split_ratio": None, "num_train_epochs": 1.0, "max_steps": -1, "per_device_train_batch_size": 8,
    "per_device_eval_batch_size": 8, "gradient_accumulation_steps": 1, "learning_rate": 5e-5, "warmup_ratio": 0.0,
    "packing_samples": False, "max_tokens_per_batch": None,
    "warmup_steps": 0, "weight_decay": 0.0, "adam_beta1": 0.9, "adam_beta2": 0.999, "adam_epsilon": 1e-8,
    "max_grad_norm": 1.0, "seed": 42, "save_steps": 500, "logging_steps": 500,
}  # fmt: skip
ENGINE = {
    "use_fusemt": True, "rollout_weight_type": None, "rollout_kv_type": None, "rollout_kv_memory": None,
    "speculative_tokens": 0, "speculative_method": "ngram",
    "logprob_gap_limit": 0.05, "on_logprob_gap": "warn",
}  # fmt: skip
DEFAULTS = {
    "sft": {
        **SHARED, "eval_datasets": None, "model_config_name_or_path": None, "label_smoothing": 0.0,
        "loss_on": "assistant", "pretrain_mode": False,
    },
    "dpo": {
        **SHARED, "eval_datasets": None, "model_config_name_or_path": None, "beta": 0.1, "loss_type": ("sigmoid",),
        "loss_weights": None, "label_smoothing": 0.0, "average_logps": None, "simpo_gamma": 0.5,
        "cpo_alpha": 1.0, "dpop_lambda": 50.0, "discopop_tau": 0.05, "bco_threshold": "running",
        "ld_alpha": None, "reference_free": False, "pref_loss_ratio": 1.0,
        "sft_loss_ratio": 0.0, "ref_model_name_or_path": None, "precompute_ref_logprobs": False,
    },
    "kto": {
        **SHARED, "eval_datasets": None, "model_config_name_or_path": None, "beta": 0.1, "loss_type": "kto",
        "desirable_weight": 1.0, "undesirable_weight": 1.0, "ref_model_name_or_path": None,
        "precompute_ref_logprobs": False,
    },
    "kd": {
        **SHARED, "eval_datasets": None, "model_config_name_or_path": None, "kd_coef": 0.4, "beta": 0.0,
        "temperature": 1.0, "lmbda": 0.0, "max_dec_len": None, "teacher_offload": False,
        "teacher_tensor_parallel_degree": -1, **ENGINE,
    },
    "pairwise": {
        **SHARED, "eval_datasets": None, "model_config_name_or_path": None, "pairwise_template": None,
        "pairwise_turn": None, "pairwise_letters": None,
    },
    "rm": {
        **SHARED, "eval_datasets": None, "value_head_prefix": None, "model_config_name_or_path": None,
        "placeholder_token": None, "reward_tokens": ("+", "-"), "step_aggregation": "min",
        "objective": "reward", "train_head_only": False, "gating_hidden_size": 1024, "gating_num_layers": 3,
        "gating_temperature": 10.0, "gating_scale": 1.0, "debias_length": "spearman",
        "attributes": (), "num_labels": None, "loss_type": "sequence-wise",
        "regularization": 0.0,
        "margin_loss": False, "center_rewards_coefficient": None,
        "regularization_convention": "paddlenlp", "score_bias": False, "normalize_score_during_training": False,
        "normalizer_type": "ExponentialMovingAverage", "normalizer_momentum": None,
    },
    "ppo": {
        **SHARED, "eval_datasets": None, "ptx_datasets": None, "reward_critic_model_name_or_path": None,
        "per_device_prompt_batch_size": 16, "global_batch_size": -1, "global_mini_batch_size": -1,
        "num_return_sequences": 1, "per_device_rollout_batch_size": -1, "per_device_logprob_batch_size": -1,
        "per_device_value_batch_size": -1, "update_iters": 1, **ENGINE,
        "on_reward_hacking": "warn",
        "importance_weight_cap": 2.0, "rollout_ahead": 0, "use_rollout_routing_replay": "auto", "rl_algorithm": "ppo",
        "kl_coeff": 0.02, "kl_estimator": "k1",
        "kl_target": None, "kl_horizon": 10000.0, "gamma": 1.0, "gae_lambda": 0.95, "normalize_advantage": False,
        "clip_range_ratio": 0.2, "clip_range_ratio_low": None, "clip_range_ratio_high": None, "dual_clip": None,
        "clip_range_score": 50.0, "clip_placement": "score", "clip_range_value": 5.0,
        "policy_loss_reduction": "token", "loss_length": None, "entropy_coeff": 0.0, "ptx_coeff": 0.0,
        "importance_sampling_level": "token", "use_adaptive_entropy": False, "entropy_target": 0.2,
        "entropy_coeff_delta": 0.005, "entropy_coeff_min": 0.0, "entropy_coeff_max": 1.0, "use_kl_loss": False,
        "kl_loss_estimator": "k3",
        "kl_loss_coeff": 0.001, "pg_loss_coeff": 1.0, "use_ema": False, "ema_beta": 0.992, "target_kl": None,
        "remove_same_inputs": True, "preset": None, "advantage_variance": "unbiased", "kl_limit": None,
        "critic_init": "reward_model", "freezing_actor_steps": -1, "dynamic_sampling": False, "max_gen_batches": 2,
        "gae_lambda_value": None, "gae_lambda_alpha": None,
        "mask_truncated_completions": False,
    },
}  # fmt: skip
ALIASES = {
    "critic_model_name_or_path": ("reward_critic_model_name_or_path", "c"),
    "rollout_n": ("num_return_sequences", 2),
    "enable_ema": ("use_ema", True),
    "entropy_coef_delta": ("entropy_coeff_delta", 0.01),
    "entropy_coef_min": ("entropy_coeff_min", 0.01),
    "entropy_coef_max": ("entropy_coeff_max", 0.5),
    "critic_warmup": ("freezing_actor_steps", 2),
    "rollout_max_num_seqs": ("per_device_rollout_batch_size", 3),
    "rollout_logprob_batch_size": ("per_device_logprob_batch_size", 3),
}
MODELS = [
    ("sft", "model_name_or_path"),
    ("sft", "model_config_name_or_path"),
    ("rm", "model_name_or_path"),
    ("rm", "model_config_name_or_path"),
    ("dpo", "model_name_or_path"),
    ("dpo", "ref_model_name_or_path"),
    ("kd", "teacher_model_name_or_path"),
    ("ppo", "actor_model_name_or_path"),
    ("ppo", "reward_critic_model_name_or_path"),
    ("ppo", "reward_model_name_or_path"),
]
DATASETS = [(trainer, key) for trainer in PARSERS for key in ("train_datasets", "eval_datasets")]
DATASETS.append(("ppo", "ptx_datasets"))


def _parse(trainer, changes, folder):
    given = {**GIVEN[trainer], **changes}
    if "model_config_name_or_path" in changes:
        given["tokenizer_name_or_path"] = "t"
        del given["model_name_or_path"]
    (folder / "argument.json").write_text(json.dumps(given))
    return PARSERS[trainer]([str(folder / "argument.json")]).as_dict()


@pytest.mark.parametrize("trainer", PARSERS)
def test_the_defaults(trainer, tmp_path):
    values = _parse(trainer, {}, tmp_path)
    expected = DEFAULTS.get(trainer, DEFAULTS["sft"])
    assert {key: values[key] for key in expected} == expected


def test_every_key_of_a_trainers_own_group_is_in_the_table(tmp_path):
    for trainer, group in (
        ("sft", "offline"),
        ("rm", "offline"),
        ("pairwise", "offline"),
        ("dpo", "offline"),
        ("kd", "loss"),
        ("kd", "teacher"),
        ("kd", "engine"),
        ("ppo", "engine"),
        ("ppo", "on_policy"),
        ("ppo", "algorithm"),
    ):
        (tmp_path / "argument.json").write_text(json.dumps(GIVEN[trainer]))
        parsed = PARSERS[trainer]([str(tmp_path / "argument.json")])
        own = {item.name for item in dataclasses.fields(getattr(parsed, group))}
        assert own - set(DEFAULTS[trainer]) == {key for key in GIVEN[trainer] if key in own}


@pytest.mark.parametrize("alias", ALIASES)
def test_a_key_has_its_other_name(alias, tmp_path):
    key, value = ALIASES[alias]
    assert _parse("ppo", {alias: value}, tmp_path)[key] == value


@pytest.mark.parametrize(("trainer", "key"), MODELS)
def test_a_model_is_looked_for_beside_the_file(trainer, key, tmp_path):
    (tmp_path / "here" / "model").mkdir(parents=True)
    assert _parse(trainer, {key: "here/model"}, tmp_path)[key] == str(tmp_path / "here" / "model")
    with pytest.raises(ArgumentError, match=f"{key}: model folder './nowhere' does not exist"):
        _parse(trainer, {key: "./nowhere"}, tmp_path)


@pytest.mark.parametrize(("trainer", "key"), DATASETS)
def test_the_file_of_a_dataset_is_looked_for_beside_the_file(trainer, key, tmp_path):
    (tmp_path / "rows.jsonl").write_text("{}\n")
    value = _parse(trainer, {key: "jsonl::rows.jsonl"}, tmp_path)[key]
    assert value == f"jsonl::{tmp_path / 'rows.jsonl'}"
    with pytest.raises(ArgumentError, match=f"{key}: dataset path .*nowhere"):
        _parse(trainer, {key: "jsonl::./nowhere.jsonl"}, tmp_path)
