"""The smallest and the largest number of every key that has one, as the reference says them."""

from __future__ import annotations

import pytest

from alignment.arguments.parser import parse_arguments
from alignment.errors import ArgumentError
from alignment.trainers.ppo.arguments import GROUPS as PPO
from alignment.trainers.reward.arguments import GROUPS as RM

REQUIRED = ["--train_datasets", "p", "--output_dir", "o"]
COUNTS = """
per_device_prompt_batch_size num_return_sequences update_iters per_device_train_batch_size per_device_eval_batch_size
gradient_accumulation_steps decay_steps save_total_limit logging_steps max_prompt_len max_dec_len
critic_decay_steps virtual_pp_degree distributed_timeout
"""
OR_MINUS_ONE = """
per_device_rollout_batch_size per_device_logprob_batch_size per_device_value_batch_size per_device_reward_batch_size
max_steps global_batch_size global_mini_batch_size
"""
NOT_NEGATIVE = """
warmup_steps seed data_seed top_k min_dec_len reward_retries learning_rate min_learning_rate weight_decay max_grad_norm
kl_coeff kl_loss_coeff entropy_coeff entropy_coeff_min ptx_coeff critic_learning_rate critic_min_learning_rate
critic_weight_decay
"""
POSITIVE = """
num_train_epochs adam_epsilon logprob_gap_limit kl_target kl_horizon clip_range_ratio clip_range_ratio_high
entropy_target entropy_coeff_delta entropy_coeff_max
clip_range_score clip_range_value target_kl kl_limit temperature repetition_penalty reward_timeout
"""
LIMITS = {
    **{key: (["1"], ["0", "-1"]) for key in COUNTS.split()},
    **{key: (["1", "-1"], ["0", "-2"]) for key in OR_MINUS_ONE.split()},
    **{key: (["1"], ["0", "-2"]) for key in ("eval_steps", "save_steps")},
    **{key: (["0", "1"], ["-1"]) for key in NOT_NEGATIVE.split()},
    **{key: (["0.001", "1000"], ["0", "-1"]) for key in POSITIVE.split()},
    **{key: (["0", "1"], ["-0.1", "1.1"]) for key in ("gamma", "gae_lambda", "warmup_ratio", "critic_warmup_ratio")},
    **{key: (["0", "0.999"], ["-0.1", "1"]) for key in ("adam_beta1", "adam_beta2", "ema_beta")},
    "freezing_actor_steps": (["-1", "0", "3"], ["-2"]),
    "early_stopping_patience": (["1"], ["0"]),
    "early_stopping_threshold": (["0", "1"], ["-0.1"]),
    "top_p": (["0.001", "1"], ["0", "1.1"]),
    "max_length": (["2"], ["1"]),
    "clip_range_ratio_low": (["0.001", "0.999"], ["0", "1"]),
    "dual_clip": (["1.001"], ["1", "0"]),
    "importance_weight_cap": (["1"], ["0.999"]),
    "rollout_ahead": (["0", "1"], ["-1", "2"]),
    "eval_split_ratio": (["0.001", "0.999"], ["0", "1"]),
    "dataloader_num_workers": (["0", "256"], ["-1", "257"]),
}
REWARD_MODEL = {"regularization": (["0", "1"], ["-0.1"]), "normalizer_momentum": (["0", "1"], ["-0.1", "1.1"])}


def _parse(groups, key, value):
    required = [*REQUIRED, *(["--actor_model_name_or_path", "."] if groups is PPO else [])]
    return parse_arguments(groups, [*required, f"--{key}", value]).as_dict()[key]


@pytest.mark.parametrize(
    ("groups", "key", "good", "bad"),
    [(groups, key, *rows[key]) for groups, rows in ((PPO, LIMITS), (RM, REWARD_MODEL)) for key in rows],
    ids=[*LIMITS, *REWARD_MODEL],
)
def test_the_numbers_at_the_edge_are_taken_and_those_beyond_refused(groups, key, good, bad):
    for value in good:
        assert _parse(groups, key, value) == float(value)
    for value in bad:
        with pytest.raises(ArgumentError, match=f"{key}: "):
            _parse(groups, key, value)
