"""SheepRLHF's tasks: overrides ``group.field=value`` of its configuration, with its defaults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from alignment.arguments.peers.programs.program import (
    Answers,
    Flags,
    NoCounterpart,
    NoNeed,
    PeerStep,
    Program,
    ReadWith,
    is_true,
)
from alignment.errors import ArgumentError

SUITE, SCRIPT = "SheepRLHF", r"(.*/)?sheeprlhf\.py"
DATA = MappingProxyType(
    {"summarization": "CarperAI/openai_summarize_comparisons", "helpful_harmless": "Dahoas/full-hh-rlhf"}
)
LENGTHS = MappingProxyType({"summarization": (512, 384), "helpful_harmless": (256, 128)})
_MODELS = MappingProxyType(
    {
        "opt": ("facebook/opt-350m", "q_proj,v_proj"),
        "gpt2": ("gpt2-medium", "c_attn"),
        "phi": ("microsoft/phi-1_5", "q_proj,k_proj,v_proj,dense"),
        "falcon": ("tiiuae/falcon-7b", "query_key_value"),
    }
)


def named(table: Mapping[str, Any], value: Any, what: str) -> Any:
    """Return what ``table`` has for the name of a configuration; an ArgumentError lists the names."""
    if value not in table:
        raise ArgumentError(f"{what}={value} is no configuration of SheepRLHF ({', '.join(table)})")
    return table[value]


def _model(key: str) -> Any:
    """Name the model of a configuration, unless a trained one is named."""

    def convert(value: Any, flags: Flags) -> Mapping[str, Any]:
        name, _ = named(_MODELS, value, "model")
        return {key: flags.get("sft_experiment_dir") or flags.get("model.repo_name") or name}

    return convert


def _data(value: Any, flags: Flags) -> Mapping[str, Any]:
    name, (longest, prompt) = named(DATA, value, "data"), LENGTHS[value]
    return {
        "train_datasets": f"jsonl:1.0:{flags.get('data.dataset_name') or name}",
        "max_length": flags.get("data.max_length", longest),
        "max_prompt_len": flags.get("data.max_prompt_length", prompt),
    }


def _finetuned(value: Any, flags: Flags) -> Mapping[str, Any]:
    if str(value).upper() != "LORA":
        return {}
    _, modules = named(_MODELS, flags.get("model"), "model")
    return {
        "lora": True,
        "lora_rank": flags.get("model.lora_cfg.rank", 16),
        "lora_alpha": flags.get("model.lora_cfg.alpha", 16),
        "lora_dropout": flags.get("model.lora_cfg.dropout", 0.0),
        "lora_target_modules": flags.get("model.lora_cfg.targets", modules),
    }


def _accumulated(value: Any, flags: Flags) -> Mapping[str, Any]:
    rows, micro = int(flags.number("task.mini_batch_size", 8)), int(flags.number("task.micro_batch_size", 8))
    if rows % micro:
        raise ValueError(f"{rows} rows are no multiple of task.micro_batch_size={micro}")
    return {"gradient_accumulation_steps": rows // micro}


def targets(value: Any, flags: Flags) -> Mapping[str, Any]:
    """Convert use_masked_targets."""
    return {} if is_true(value) else {"loss_on": "all"}


def _critic(value: Any, flags: Flags) -> Mapping[str, Any]:
    return {"critic_init": "reward_model" if is_true(value) else "policy"}


_SHARED: Answers = MappingProxyType(
    {
        "task": NoNeed("it says which of our trainers is meant"),
        "model": _model("model_name_or_path"),
        "data": _data,
        "fabric": NoNeed("the launcher says how many processes there are, and device where they run"),
        "generation": NoNeed("its fields are given one by one"),
        "optim": NoNeed("the optimizer is AdamW"),
        "model.repo_name": ReadWith("model"),
        "model.finetune_mode": _finetuned,
        "model.lora_cfg.rank": ReadWith("model.finetune_mode"),
        "model.lora_cfg.alpha": ReadWith("model.finetune_mode"),
        "model.lora_cfg.dropout": ReadWith("model.finetune_mode"),
        "model.lora_cfg.targets": ReadWith("model.finetune_mode"),
        "model.disable_dropout": NoNeed("there is no dropout"),
        "model.library_cfg.trust_remote_code": NoNeed("no code of a model folder is run"),
        "data.dataset_name": ReadWith("data"),
        "data.max_length": ReadWith("data"),
        "data.max_prompt_length": ReadWith("data"),
        "data.validation_split": "eval_split_ratio",
        "data.reward_model_split": NoCounterpart("divide the rows into files, or write name:proportion:path"),
        "data.remove_same_responses": NoNeed("identical pairs are dropped and counted"),
        "data.remove_same_inputs": NoCounterpart("PPO has remove_same_inputs; elsewhere prompts may repeat"),
        "data.minimum_response_length": NoCounterpart("empty answers are dropped; filter short ones in the file"),
        "data.save_skipped_examples": NoNeed("ledger.json counts every dropped row"),
        "data.num_samples": NoCounterpart("give jsonl:N/-1:PATH as train_datasets"),
        "task.epochs": "num_train_epochs",
        "task.micro_batch_size": "per_device_train_batch_size",
        "task.mini_batch_size": _accumulated,
        "task.gradient_clip_val": "max_grad_norm",
        "task.max_num_steps": "max_steps",
        "task.lr_warmup_steps": "warmup_steps",
        "task.save_interval": "save_steps",
        "task.log_interval": "logging_steps",
        "task.eval_interval": lambda value, flags: {"evaluation_strategy": "steps", "eval_steps": value},
        "task.eval_iters": NoCounterpart("evaluation covers its dataset; shorten it with name:proportion"),
        "task.num_workers": NoNeed("rows are encoded before training"),
        "task.use_masked_targets": NoNeed("the losses of pairs read the tokens of answers"),
        "optim.lr": "learning_rate",
        "optim.eps": "adam_epsilon",
        "optim.weight_decay": "weight_decay",
        "sft_experiment_dir": ReadWith("model"),
        "rm_experiment_dir": "reward_model_name_or_path",
        "exp_name": "run_name",
        "root_dir": "output_dir",
        "run_name": "run_name",
        "torch_deterministic": "deterministic",
        "debug": NoCounterpart("give max_steps=2"),
        "dry_run": NoCounterpart("give max_steps=2"),
    }
)
_DEFAULTS = {
    "data": "helpful_harmless",
    "task.epochs": 1,
    "task.micro_batch_size": 8,
    "task.mini_batch_size": 8,
    "task.gradient_clip_val": 1.0,
    "task.save_interval": 1000,
    "task.log_interval": 5,
    "task.eval_interval": 1000,
    "data.validation_split": 0.1,
    "optim.lr": 1e-5,
    "optim.eps": 1e-6,
}
_SCHEDULED = {"task.lr_warmup_steps": 200}
_COSINE = {"lr_scheduler_type": "cosine", "min_learning_rate": 1e-8}
_PAIRS = {**_SHARED, "task.loss_type": lambda value, flags: {"loss_type": str(value).lower()}}
ROLLOUTS: Answers = {
    **_SHARED,
    "model": _model("actor_model_name_or_path"),
    "data.validation_split": NoNeed("its PPO evaluates a single prompt; give eval_datasets"),
    "task.eval_interval": NoNeed("its PPO evaluates a single prompt; give eval_datasets"),
    "task.rollout_size": "per_device_prompt_batch_size",
    "task.rollout_mini_batch_size": "per_device_rollout_batch_size",
    "task.adaptive_kl_coeff": lambda value, flags: (
        {"kl_target": flags.number("task.target_kl_coeff", 0.1)} if flags.is_on("task.adaptive_kl_coeff") else {}
    ),
    "task.target_kl_coeff": ReadWith("task.adaptive_kl_coeff"),
    "task.clip_rewards": lambda value, flags: (
        {"clip_range_score": flags.number("task.reward_clip_value", 5.0) if flags.is_on("task.clip_rewards") else None}
    ),
    "task.reward_clip_value": ReadWith("task.clip_rewards"),
    "task.clip_coeff": lambda value, flags: {"clip_range_ratio": value, "clip_range_value": value},
    "task.vf_coeff": NoNeed("the critic has an optimizer of its own"),
    "task.gae_gamma": "gamma",
    "task.init_critic_with_rm": _critic,
    "task.init_critic_with_reward": _critic,
    "task.actor_learning_rate": NoNeed("SheepRLHF reads optim.lr in its place"),
    "task.critic_learning_rate": NoNeed("SheepRLHF reads optim.lr in its place"),
    "generation.max_new_tokens": "max_dec_len",
    "generation.num_beams": NoCounterpart("answers are sampled"),
    "generation.do_sample": NoNeed("rollouts always sample"),
}
_PPO_DEFAULTS = {
    **{key: value for key, value in _DEFAULTS.items() if key not in ("task.eval_interval", "data.validation_split")},
    "task.rollout_size": 128,
    "task.init_kl_coeff": 0.1,
    "task.ppo_epochs": 1,
    "task.normalize_rewards": True,
    "task.normalize_advantages": True,
    "task.clip_rewards": True,
    "task.clip_coeff": 0.2,
    "task.gae_gamma": 1.0,
    "task.gae_lambd": 0.95,
    "generation.max_new_tokens": 128,
    "generation.top_k": 50,
    "generation.top_p": 1.0,
    "generation.temperature": 1.0,
}
_TASKS = MappingProxyType(
    {
        "sft": PeerStep(
            "train sft",
            {**_SHARED, "task.use_masked_targets": targets},
            {**_DEFAULTS, **_SCHEDULED, "task.use_masked_targets": False},
            _COSINE,
        ),
        "rm": PeerStep("train rm", _PAIRS, {**_DEFAULTS, **_SCHEDULED, "task.loss_type": "per_sample"}, _COSINE),
        "dpo": PeerStep("train dpo", _SHARED, {**_DEFAULTS, **_SCHEDULED, "task.beta": 0.1}, _COSINE),
        "ppo": PeerStep("train ppo", ROLLOUTS, _PPO_DEFAULTS, {"lr_scheduler_type": "constant"}),
    }
)


def _steps(given: Mapping[str, Any]) -> Sequence[PeerStep]:
    step = named(_TASKS, given.get("task"), "task")
    folder = f"output/sheeprlhf/{given['task']}"
    return (step._replace(defaults={**step.defaults, "root_dir": folder}),)


PROGRAMS = (Program(SUITE, "sheeprlhf.py train", SCRIPT, _steps, "train"),)
