"""OpenRLHF's PPO and its other estimators of advantages, with the defaults of versions 0.5 to 0.8."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from alignment.arguments.peers.programs.openrlhf import SHARED, SUITE, module
from alignment.arguments.peers.programs.program import (
    Answers,
    Flags,
    NoCounterpart,
    NoNeed,
    PeerStep,
    Program,
    is_true,
    jsonl,
)


def _prompts_of_update(value: Any, flags: Flags) -> Mapping[str, Any]:
    """Convert the responses of an update to its prompts."""
    samples = int(flags.number("n_samples_per_prompt", 1))
    whole, rest = divmod(int(float(value)), samples)
    if rest or not whole:
        raise ValueError(f"{value} responses of an update are no multiple of n_samples_per_prompt={samples}")
    return {"global_mini_batch_size": whole}


def _length(value: Any, flags: Flags) -> Mapping[str, Any]:
    total = int(flags.number("prompt_max_len", 1024)) + int(flags.number("generate_max_len", 1024))
    return {"max_dec_len": value, "max_length": total}


def _kl(value: Any, flags: Flags) -> Mapping[str, Any]:
    if not flags.is_on("use_kl_loss"):
        return {"kl_coeff": value}
    is_ppo = flags.get("advantage_estimator") in (None, "gae")
    return {"kl_loss_coeff": value} if is_ppo else {"kl_loss_coeff": value, "kl_coeff": 0.0}


def _estimator(value: Any, flags: Flags) -> Mapping[str, Any]:
    return {"kl_loss_estimator" if flags.is_on("use_kl_loss") else "kl_estimator": value}


def _kl_in_loss(value: Any, flags: Flags) -> Mapping[str, Any] | NoNeed:
    """Convert the switch: only PPO's has a key, since elsewhere the coefficient says where the KL is.

    OpenRLHF's estimate is k1 unless another is named, in the loss too.
    """
    if flags.get("advantage_estimator") in (None, "gae"):
        return {"use_kl_loss": True}
    if is_true(value) and not (flags.get("kl_estimator") or flags.is_on("use_kl_estimator_k3")):
        return {"kl_loss_estimator": "k1"}
    return NoNeed("kl_loss_coeff says that the KL is in the loss")


def _estimator_k3(value: Any, flags: Flags) -> Mapping[str, Any]:
    return _estimator("k3", flags) if is_true(value) else {}


def _range(value: Any, flags: Flags) -> Mapping[str, Any]:
    low, high = (float(x) for x in (value if isinstance(value, (list, tuple)) else str(value).split()))
    if flags.get("advantage_estimator") not in (None, "gae"):
        raise ValueError("scores are clipped (clip_range_score) in PPO only")
    if -low != high:
        raise ValueError(f"clip_range_score is one number, and the range is +- this; got {low:g} to {high:g}")
    return {"clip_range_score": high}


def _clip_sides(value: Any, flags: Flags) -> Mapping[str, Any]:
    low, high = value if isinstance(value, (list, tuple)) else str(value).split()
    return {"clip_range_ratio_low": float(low), "clip_range_ratio_high": float(high)}


def _rewards(value: Any, flags: Flags) -> Mapping[str, Any]:
    return {"reward_sources" if "," in str(value) else "reward_model_name_or_path": value}


def _service(value: Any, flags: Flags) -> Mapping[str, Any]:
    is_one = str(value).startswith("http") and "," not in str(value)
    return {"use_rm_server": True, "reward_server": value} if is_one else {"reward_sources": value}


def _policy_loss(value: Any, flags: Flags) -> Mapping[str, Any]:
    if value == "ppo":
        return {}
    raise ValueError("give rl_algorithm=gspo")


_ENGINE = NoNeed("the engine runs inside the processes and gets its weights from them")
_PPO_ANSWERS: Answers = MappingProxyType(
    {
        **SHARED,
        "max_epochs": "update_iters",
        "num_episodes": "num_train_epochs",
        "train_batch_size": _prompts_of_update,
        "rollout_batch_size": "global_batch_size",
        "generate_max_len": _length,
        "actor_learning_rate": "learning_rate",
        "init_kl_coef": _kl,
        "kl_estimator": _estimator,
        "use_kl_estimator_k3": _estimator_k3,
        "use_kl_loss": _kl_in_loss,
        "reward_clip_range": _range,
        "eps_clip_low_high": _clip_sides,
        "reward_pretrain": _rewards,
        "remote_rm_url": _service,
        "prompt_data": jsonl("train_datasets"),
        "pretrain_data": jsonl("ptx_datasets"),
        "ptx_coef": lambda value, flags: {"ptx_coeff": value} if flags.get("pretrain_data") else {},
        "policy_loss_type": _policy_loss,
        "input_key": "input_key",
        "save_value_network": NoNeed("the critic is exported to output_dir/value"),
        "actor_init_on_gpu": _ENGINE,
        "vllm_sync_backend": _ENGINE,
        "vllm_sync_with_ray": _ENGINE,
        "vllm_enable_sleep": _ENGINE,
        "enforce_eager": _ENGINE,
        "enable_prefix_caching": NoNeed("it changes no answers"),
        "vllm_gpu_memory_utilization": NoCounterpart("give rollout_kv_memory, the memory for keys and values"),
        "vllm_generate_batch_size": "per_device_rollout_batch_size",
        "rollout_max_tokens_per_gpu": NoCounterpart("give per_device_logprob_batch_size, in rows"),
        "eval_temperature": NoCounterpart("evaluation samples at temperature, or greedily with eval_do_sample=false"),
        "eval_n_samples_per_prompt": NoCounterpart("evaluation answers each prompt once"),
        "agent_func_path": NoCounterpart("give reward_function for a reward of one turn"),
        "dynamic_filtering_reward_range": NoCounterpart("dynamic_sampling keeps groups whose rewards differ"),
        "no_advantage_std_norm": NoCounterpart("give normalize_advantage=false"),
    }
)


def _discount(value: Any, flags: Flags) -> Mapping[str, Any] | NoNeed:
    """Convert the discount of an estimator without a critic: only REINFORCE++ has it, the others set it to 1."""
    if flags.get("advantage_estimator") == "reinforce":
        return {"gamma": value}
    return NoNeed("OpenRLHF sets it to 1 with this estimator, as it is here")


_NO_CRITIC = NoNeed("this algorithm has no critic")
_ANSWERS_WITHOUT_CRITIC: Answers = MappingProxyType(
    {
        **_PPO_ANSWERS,
        "gamma": _discount,
        "lambd": NoNeed("it is read by the estimator gae only"),
        "critic_learning_rate": _NO_CRITIC,
        "critic_pretrain": _NO_CRITIC,
        "critic_num_nodes": _NO_CRITIC,
        "critic_num_gpus_per_node": _NO_CRITIC,
        "colocate_critic_reward": _NO_CRITIC,
    }
)
_PPO_DEFAULTS = {
    "init_kl_coef": 0.01,
    "lr_warmup_ratio": 0.03,
    "lr_scheduler": "cosine_with_min_lr",
    "actor_learning_rate": 1e-6,
    "critic_learning_rate": 9e-6,
    "rollout_batch_size": 1024,
    "train_batch_size": 128,
    "micro_train_batch_size": 4,
    "micro_rollout_batch_size": 8,
    "prompt_max_len": 1024,
    "generate_max_len": 1024,
    "zero_stage": 2,
    "save_steps": -1,
    "eval_steps": -1,
    "logging_steps": 1,
    "input_template": None,
}
_PPO = PeerStep("train ppo", _PPO_ANSWERS, _PPO_DEFAULTS, {"preset": "openrlhf"})


def _on_policy(given: Mapping[str, Any]) -> Sequence[PeerStep]:
    """Return the step: the preset is PPO's, so other estimators get its values one by one."""
    estimator = given.get("advantage_estimator", "gae")
    if estimator == "gae":
        return (_PPO,)
    defaults = {key: value for key, value in _PPO_DEFAULTS.items() if key != "critic_learning_rate"}
    keys = {"normalize_advantage": estimator not in ("group_norm", "dr_grpo")}
    return (PeerStep("train ppo", _ANSWERS_WITHOUT_CRITIC, defaults, keys, like="openrlhf"),)


PROGRAMS = (Program(SUITE, "openrlhf.cli.train_ppo_ray", module("train_ppo(_ray)?"), _on_policy),)
