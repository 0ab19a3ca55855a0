"""What to write in place of a key of TRL, OpenRLHF, verl or safe-rlhf that this suite calls otherwise."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any

from alignment.arguments.peers.peer_key import PeerKey
from alignment.arguments.peers.trl_keys import TRL_KEYS
from alignment.fields import show_value

_ROWS_OF_UPDATE = "per_device_train_batch_size * gradient_accumulation_steps * processes"
_WHOLE_RESPONSES = "give importance_weight_cap, which cuts the weights of tokens, not those of whole responses"
_TRL, _OPENRLHF, _VERL, _SAFE = "TRL", "OpenRLHF", "verl", "safe-rlhf"

PEER_KEYS: Mapping[str, PeerKey] = MappingProxyType(
    {
        **TRL_KEYS,
        "num_ppo_epochs": PeerKey(_TRL, ("update_iters",)),
        "num_iterations": PeerKey(_TRL, ("update_iters",)),
        "ppo_epochs": PeerKey(f"{_VERL} and SheepRLHF", ("update_iters",)),
        "num_mini_batches": PeerKey(
            _TRL,
            ("gradient_accumulation_steps",),
            f"the updates of a pass are its responses / ({_ROWS_OF_UPDATE}): give gradient_accumulation_steps",
        ),
        "total_episodes": PeerKey(
            _TRL,
            ("max_steps", "update_iters"),
            f"it counts responses: give max_steps = total_episodes / ({_ROWS_OF_UPDATE}) * update_iters",
        ),
        "response_length": PeerKey(_TRL, ("max_dec_len",)),
        "max_completion_length": PeerKey(_TRL, ("max_dec_len",)),
        "max_response_length": PeerKey(_VERL, ("max_dec_len",)),
        "generate_max_len": PeerKey(_OPENRLHF, ("max_dec_len",)),
        "prompt_max_len": PeerKey(_OPENRLHF, ("max_prompt_len",)),
        "whiten_rewards": PeerKey(
            _TRL,
            ("normalize_reward",),
            "it divides the rewards of a batch by their deviation; normalize_reward divides scores by a running one",
        ),
        "whiten_advantages": PeerKey(_TRL, ("normalize_advantage",)),
        "kl_coef": PeerKey(f"{_TRL} and {_VERL}", ("kl_coeff",)),
        "init_kl_coef": PeerKey(f"{_OPENRLHF} and TRL", ("kl_coeff",)),
        "init_kl_coeff": PeerKey("SheepRLHF", ("kl_coeff",)),
        "kl_loss_coef": PeerKey(_VERL, ("kl_loss_coeff",)),
        "beta": PeerKey(f"{_TRL} (GRPO)", ("kl_loss_coeff", "kl_coeff"), "give kl_loss_coeff (RLOO: kl_coeff)"),
        "kl_penalty": PeerKey(
            _VERL, ("kl_estimator",), "give kl_estimator: kl is k1, mse is k2, low_var_kl is k3, as k1, k2 and k3 are"
        ),
        "kl_loss_type": PeerKey(
            _VERL, ("kl_loss_estimator",), "give kl_loss_estimator: kl is k1, mse is k2, low_var_kl is k3, abs is abs"
        ),
        "use_kl_estimator_k3": PeerKey(_OPENRLHF, ("kl_estimator",), "give kl_estimator=k3"),
        "entropy_loss_coef": PeerKey(_OPENRLHF, ("entropy_coeff",)),
        "use_kl_in_reward": PeerKey(_VERL, ("kl_coeff",), "give kl_coeff (0: no KL in the reward)"),
        "vf_coef": PeerKey(
            f"{_TRL} and SheepRLHF",
            ("critic_learning_rate",),
            "the critic has an optimizer of its own, for which a factor of the loss changes nothing: give "
            "critic_learning_rate",
        ),
        "cliprange": PeerKey(_TRL, ("clip_range_ratio",)),
        "epsilon": PeerKey(f"{_TRL} (GRPO)", ("clip_range_ratio",)),
        "epsilon_high": PeerKey(f"{_TRL} (GRPO)", ("clip_range_ratio_high",)),
        "delta": PeerKey(f"{_TRL} (GRPO)", ("dual_clip",)),
        "eps_clip": PeerKey(_OPENRLHF, ("clip_range_ratio",)),
        "eps_clip_low_high": PeerKey(
            _OPENRLHF,
            ("clip_range_ratio_low", "clip_range_ratio_high"),
            "give clip_range_ratio_low and clip_range_ratio_high, one number each",
        ),
        "clip_ratio": PeerKey(_VERL, ("clip_range_ratio",)),
        "clip_ratio_low": PeerKey(_VERL, ("clip_range_ratio_low",)),
        "clip_ratio_high": PeerKey(_VERL, ("clip_range_ratio_high",)),
        "clip_ratio_c": PeerKey(_VERL, ("dual_clip",)),
        "cliprange_value": PeerKey(f"{_TRL} and {_VERL}", ("clip_range_value",)),
        "value_clip": PeerKey(_OPENRLHF, ("clip_range_value",)),
        "reward_clip_range": PeerKey(
            f"{_OPENRLHF} and TRL", ("clip_range_score",), "give clip_range_score, one number: the range is +- this"
        ),
        "clip_rewards": PeerKey("SheepRLHF", ("clip_range_score",)),
        "lam": PeerKey(f"{_TRL} and {_VERL}", ("gae_lambda",)),
        "lambd": PeerKey(_OPENRLHF, ("gae_lambda",)),
        "gae_lambd": PeerKey("SheepRLHF", ("gae_lambda",)),
        "rollout_batch_size": PeerKey(
            _OPENRLHF,
            ("global_batch_size", "per_device_prompt_batch_size"),
            "it counts the prompts of a rollout over all processes: give global_batch_size, or "
            "per_device_prompt_batch_size of each process",
        ),
        "rollout_size": PeerKey(
            "SheepRLHF", ("per_device_prompt_batch_size",), "give per_device_prompt_batch_size, prompts in a process"
        ),
        "micro_rollout_batch_size": PeerKey(_OPENRLHF, ("per_device_logprob_batch_size",)),
        "local_rollout_forward_batch_size": PeerKey(_TRL, ("per_device_logprob_batch_size",)),
        "log_prob_micro_batch_size_per_gpu": PeerKey(_VERL, ("per_device_logprob_batch_size",)),
        "ppo_mini_batch_size": PeerKey(_VERL, ("global_mini_batch_size",)),
        "ppo_micro_batch_size_per_gpu": PeerKey(_VERL, ("per_device_train_batch_size",)),
        "forward_micro_batch_size_per_gpu": PeerKey(_VERL, ("per_device_value_batch_size",)),
        "generation_batch_size": PeerKey(
            _TRL,
            ("global_batch_size", "num_return_sequences"),
            "it counts responses over all processes: give global_batch_size = generation_batch_size / "
            "num_return_sequences",
        ),
        "steps_per_generation": PeerKey(
            _TRL,
            ("per_device_prompt_batch_size", "num_return_sequences"),
            "the updates of a pass are per_device_prompt_batch_size * num_return_sequences * processes / "
            f"({_ROWS_OF_UPDATE})",
        ),
        "n_samples_per_prompt": PeerKey(_OPENRLHF, ("num_return_sequences",)),
        "num_generations": PeerKey(_TRL, ("num_return_sequences",)),
        "rloo_k": PeerKey(_TRL, ("num_return_sequences",)),
        "n": PeerKey(_VERL, ("num_return_sequences",)),
        "actor_learning_rate": PeerKey(_OPENRLHF, ("learning_rate", "critic_learning_rate"), "give learning_rate"),
        "actor_lr": PeerKey(_SAFE, ("learning_rate", "critic_learning_rate"), "give learning_rate"),
        "critic_lr": PeerKey(_SAFE, ("critic_learning_rate",)),
        "actor_weight_decay": PeerKey(_SAFE, ("weight_decay", "critic_weight_decay"), "give weight_decay"),
        "actor_lr_scheduler_type": PeerKey(
            _SAFE, ("lr_scheduler_type", "critic_lr_scheduler_type"), "give lr_scheduler_type"
        ),
        "actor_lr_warmup_ratio": PeerKey(_SAFE, ("warmup_ratio", "critic_warmup_ratio"), "give warmup_ratio"),
        "critic_lr_warmup_ratio": PeerKey(_SAFE, ("critic_warmup_ratio",)),
        "lr_warmup_ratio": PeerKey(f"{_OPENRLHF} and {_SAFE}", ("warmup_ratio",)),
        "lr_warmup_steps": PeerKey(f"{_VERL} and SheepRLHF", ("warmup_steps",)),
        "actor_gradient_checkpointing": PeerKey(_SAFE, ("recompute", "critic_recompute"), "give recompute"),
        "critic_gradient_checkpointing": PeerKey(_SAFE, ("critic_recompute",)),
        "num_episodes": PeerKey(_OPENRLHF, ("num_train_epochs",)),
        "epochs": PeerKey(_SAFE, ("num_train_epochs",)),
        "total_epochs": PeerKey(_VERL, ("num_train_epochs",)),
        "total_training_steps": PeerKey(
            _VERL,
            ("max_steps", "update_iters"),
            "it counts rollouts: give max_steps = total_training_steps * updates per rollout, which the start of a "
            "run shows",
        ),
        "save_interval": PeerKey(_SAFE, ("save_steps",)),
        "eval_interval": PeerKey(_SAFE, ("eval_steps",), "give eval_steps, and evaluation_strategy=steps"),
        "need_eval": PeerKey(_SAFE, ("evaluation_strategy",), "give evaluation_strategy=steps or epoch"),
        "vllm_is_truncated_threshold": PeerKey(
            _OPENRLHF, ("importance_weight_cap",), "give importance_weight_cap, the larger of the two"
        ),
        "vllm_importance_sampling_clip_max": PeerKey(_TRL, ("importance_weight_cap",), _WHOLE_RESPONSES),
        "vllm_importance_sampling_cap": PeerKey(_TRL, ("importance_weight_cap",), _WHOLE_RESPONSES),
        "rollout_is_threshold": PeerKey(_VERL, ("importance_weight_cap",)),
        "rollout_is": PeerKey(
            _VERL, ("on_logprob_gap",), "give on_logprob_gap=correct, which weighs tokens (token) and not responses"
        ),
        "tis_imp_ratio_cap": PeerKey(_VERL, ("importance_weight_cap",)),
        "max_head_offpolicyness": PeerKey("AReaL", ("rollout_ahead",), "give rollout_ahead=1, at most one rollout"),
        "router_replay": PeerKey(
            "verl and NeMo RL", ("use_rollout_routing_replay",), "give use_rollout_routing_replay=true (R3) or false"
        ),
        "use_routing_replay": PeerKey(
            "miles",
            ("use_rollout_routing_replay",),
            "give use_rollout_routing_replay=true, which replays the choices of the rollout (R3)",
        ),
        "entropy_coef": PeerKey("SheepRLHF and others", ("entropy_coeff",)),
        "ptx_coef": PeerKey(_OPENRLHF, ("ptx_coeff",)),
        "normalize_rewards": PeerKey("SheepRLHF", ("normalize_reward",)),
        "normalize_advantages": PeerKey("SheepRLHF", ("normalize_advantage",)),
        "norm_adv_by_std_in_grpo": PeerKey(_VERL, ("scale_rewards",), "give scale_rewards=group (true) or none"),
        "loss_agg_mode": PeerKey(
            _VERL,
            ("policy_loss_reduction",),
            "give policy_loss_reduction: token-mean is token, seq-mean-token-mean is sequence, "
            "seq-mean-token-sum-norm is constant",
        ),
        "policy_loss_type": PeerKey(_OPENRLHF, ("rl_algorithm",), "give rl_algorithm=gspo where it is gspo"),
        "no_advantage_std_norm": PeerKey(_OPENRLHF, ("normalize_advantage",), "give normalize_advantage=false"),
        "filter_groups": PeerKey(
            _VERL, ("dynamic_sampling", "max_gen_batches"), "give dynamic_sampling=true and max_gen_batches"
        ),
        "tau_pos": PeerKey(_VERL, ("sapo_temperature_pos",)),
        "tau_neg": PeerKey(_VERL, ("sapo_temperature_neg",)),
        "test_freq": PeerKey(
            _VERL,
            ("eval_steps", "update_iters"),
            "it counts rollouts: give eval_steps, which counts updates, and evaluation_strategy=steps",
        ),
        "save_freq": PeerKey(_VERL, ("save_steps", "update_iters"), "it counts rollouts: give save_steps, in updates"),
        "full_determinism": PeerKey(_OPENRLHF, ("deterministic",)),
        "best_metric_key": PeerKey(_OPENRLHF, ("metric_for_best_model",)),
        "sft_model_path": PeerKey(_TRL, ("actor_model_name_or_path",)),
        "reward_model_path": PeerKey(_TRL, ("reward_model_name_or_path",)),
        "pretrain": PeerKey(_OPENRLHF, ("actor_model_name_or_path",)),
        "critic_pretrain": PeerKey(_OPENRLHF, ("reward_critic_model_name_or_path",)),
        "init_critic_with_reward": PeerKey("SheepRLHF", ("critic_init",), "give critic_init=reward_model or policy"),
        "stop_token_id": PeerKey(_TRL, ("stop_token_ids",)),
        "prompt_data": PeerKey(_OPENRLHF, ("train_datasets",), "give train_datasets=jsonl:1.0:PATH"),
        "pretrain_data": PeerKey(_OPENRLHF, ("ptx_datasets",), "give ptx_datasets=jsonl:1.0:PATH"),
        "remote_rm_url": PeerKey(
            _OPENRLHF, ("use_rm_server", "reward_server"), "give use_rm_server=true and reward_server=URL"
        ),
        "ref_reward_offload": PeerKey(_OPENRLHF, ("offload_level",), "give offload_level=freeze_model"),
    }
)


def advise(key: str, value: Any, known: Collection[str]) -> str | None:
    """Return what to write instead of the peers' ``key``; None: it is none, or this trainer has no such key.

    ``known`` are the keys of the trainer. Of a dotted name, as in verl's overrides, the last part counts.
    """
    peer = PEER_KEYS.get(key.rpartition(".")[2])
    if peer is None or not set(peer.ours) <= set(known):
        return None
    how = peer.how or f"give {peer.ours[0]}={show_value(value)}"
    return f"a key of {peer.suites}; {how}"
