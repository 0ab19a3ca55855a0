"""safe-rlhf's modules; most of its flags and defaults are also ours, which come from PaddleNLP."""

from __future__ import annotations

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
    always,
    half,
    switch,
)

_SUITE = "safe-rlhf"
_OFFLOADED = {"none": {}, "optimizer": {"offload_level": "optimizer"}}


def _offload(value: Any, flags: Flags) -> Any:
    if value not in _OFFLOADED:
        raise ValueError("offload_level moves what is unused; give optimizer, freeze_model or train_model")
    return _OFFLOADED[value]


def _evaluated(value: Any, flags: Flags) -> Any:
    return {"evaluation_strategy": value} if flags.is_on("need_eval") else {}


_SHARED: Answers = MappingProxyType(
    {
        "bf16": half,
        "fp16": NoCounterpart("give bf16"),
        "epochs": "num_train_epochs",
        "offload": _offload,
        "need_eval": ReadWith("eval_strategy"),
        "eval_strategy": _evaluated,
        "eval_interval": lambda value, flags: {"eval_steps": value} if flags.is_on("need_eval") else {},
        "save_interval": "save_steps",
        "log_run_name": "run_name",
        "log_type": "report_to",
        "log_project": NoCounterpart("the project is called alignment"),
        "log_dir": NoNeed("curves are in output_dir/runs"),
        "trust_remote_code": NoNeed("no code of a model folder is run"),
        "save_16bit": NoNeed("a model is exported in the type it is trained in"),
        "tf32": NoCounterpart("leave it out"),
        "lr": "learning_rate",
        "lr_warmup_ratio": "warmup_ratio",
        "gradient_checkpointing": switch(recompute=True),
        "actor_gradient_checkpointing": switch(recompute=True),
        "critic_gradient_checkpointing": switch(critic_recompute=True),
        "num_beams": NoCounterpart("answers are sampled"),
        "num_beam_groups": NoCounterpart("answers are sampled"),
        "deepspeed": NoNeed("zero_stage says what is sharded"),
        "deepspeed_config": NoNeed("zero_stage says what is sharded"),
    }
)
_TRAINING = {
    "epochs": 1,
    "per_device_train_batch_size": 16,
    "per_device_eval_batch_size": 16,
    "max_length": 512,
    "eval_strategy": "epoch",
    "save_interval": 1000000,
    "logging_steps": 1,
}
_LOSS_MODEL = {
    **_TRAINING,
    "lr": 2e-5,
    "lr_scheduler_type": "cosine",
    "lr_warmup_ratio": 0.0,
    "weight_decay": 1e-6,
}
_DPO = {**_LOSS_MODEL, "weight_decay": 0.0, "scale_coeff": 0.02}
_CONVENTION = {"regularization_convention": "safe-rlhf"}
_PPO = {**_TRAINING, "actor_lr": 1e-5, "critic_lr": 5e-6}
_CONSTRAINED = {"rl_algorithm": "ppo_lagrangian", "clip_range_cost": 50.0}
_RENAMED = {"actor_lr": "learning_rate", "reward_critic_model_name_or_path": "reward_critic_model_name_or_path"}


def _module(name: str) -> str:
    return rf"safe_rlhf\.{name}"


PROGRAMS = tuple(
    Program(_SUITE, f"safe_rlhf.{name}", _module(name.replace(".", r"\.")), always(step))
    for name, step in {
        "finetune": PeerStep("train sft", _SHARED, _LOSS_MODEL),
        "values.reward": PeerStep("train rm", _SHARED, _LOSS_MODEL, _CONVENTION),
        "values.cost": PeerStep("train rm", _SHARED, _LOSS_MODEL, {**_CONVENTION, "objective": "cost"}),
        "algorithms.dpo": PeerStep("train dpo", {**_SHARED, "scale_coeff": "beta"}, _DPO),
        "algorithms.ppo": PeerStep("train ppo", {**_SHARED, **_RENAMED}, _PPO, {"preset": "safe-rlhf"}),
        "algorithms.ppo_lag": PeerStep(
            "train ppo", {**_SHARED, **_RENAMED}, {**_PPO, "lambda_max": None}, _CONSTRAINED, like="safe-rlhf"
        ),
    }.items()
)
