"""OpenRLHF's offline trainers with the defaults of versions 0.5 to 0.8, and the flags that all its commands share."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from alignment.arguments.peers.programs.program import (
    DRAWN,
    TRACKED,
    Answers,
    Flags,
    NoCounterpart,
    NoNeed,
    PeerStep,
    Program,
    ReadWith,
    accumulated,
    always,
    half,
    jsonl,
    switch,
)

SUITE = "OpenRLHF"
_TEMPLATE = r"User: {}\nAssistant: "


def _betas(value: Any, flags: Flags) -> Mapping[str, Any]:
    first, second = value if isinstance(value, (list, tuple)) else str(value).split()
    return {"adam_beta1": float(first), "adam_beta2": float(second)}


def _share(rate: float, share: float) -> float:
    """Return a share of a learning rate without the digits of its rounding."""
    return float(f"{rate * share:.6g}")


def _schedule(value: Any, flags: Flags) -> Mapping[str, Any]:
    """Convert the name of a schedule; cosine_with_min_lr ends at a tenth of the peak."""
    if value != "cosine_with_min_lr":
        return {"lr_scheduler_type": value}
    share = flags.number("min_lr_ratio", 0.1)
    rate = "actor_learning_rate" if flags.get("actor_learning_rate") else "learning_rate"
    found = {"lr_scheduler_type": "cosine", "min_learning_rate": _share(flags.number(rate, 0), share)}
    if flags.get("critic_learning_rate") and flags.get("advantage_estimator") in (None, "gae"):
        found["critic_min_learning_rate"] = _share(flags.number("critic_learning_rate", 0), share)
    return found


def _template(value: Any, flags: Flags) -> Mapping[str, Any]:
    """Convert a template; one without a gap means the text as it is."""
    if flags.is_on("apply_chat_template"):
        return {}
    return {"input_template": value if value and "{}" in str(value) else "{}"}


def _lora_rank(value: Any, flags: Flags) -> Mapping[str, Any]:
    rank = int(value)
    return {} if rank == 0 else {"lora": True, "lora_rank": rank, "lora_alpha": flags.number("lora_alpha", 16)}


def _lora_only(key: str) -> Any:
    return lambda value, flags: {key: value} if int(flags.number("lora_rank", 0)) else {}


def _one_share(value: Any, flags: Flags) -> Mapping[str, Any]:
    if float(str(value).split(",")[0]) != 1 or "," in str(value):
        raise ValueError("write name:proportion:path for each dataset of train_datasets")
    return {}


SHARED: Answers = MappingProxyType(
    {
        **TRACKED,
        "bf16": half,
        "adam_betas": _betas,
        "lr_scheduler": _schedule,
        "min_lr_ratio": ReadWith("lr_scheduler"),
        "lr_warmup_ratio": "warmup_ratio",
        "input_template": _template,
        "lora_rank": _lora_rank,
        "lora_alpha": _lora_only("lora_alpha"),
        "lora_dropout": _lora_only("lora_dropout"),
        "dataset": jsonl("train_datasets"),
        "eval_dataset": jsonl("eval_datasets"),
        "max_samples": ReadWith("dataset", DRAWN),
        "dataset_probs": _one_share,
        "prompt_data_probs": _one_share,
        "pretrain_data_probs": _one_share,
        "dataset_split": "train_split",
        "prompt_split": "train_split",
        "pretrain_split": NoCounterpart("train_split holds for ptx_datasets too"),
        "adam_offload": switch(offload_level="optimizer"),
        "ref_reward_offload": switch(offload_level="freeze_model"),
        "max_ckpt_num": "save_total_limit",
        "load_checkpoint": switch(resume_from_checkpoint=True),
        "full_determinism": switch(deterministic=True),
        "ds_tensor_parallel_size": "tensor_parallel_degree",
        "deepspeed_enable_sleep": switch(offload_level=["optimizer", "train_model"]),
        "ckpt_path": NoNeed("checkpoints are written to output_dir/checkpoint-N"),
        "max_ckpt_mem": NoCounterpart("give save_total_limit"),
        "save_hf_ckpt": NoNeed("the exported model is a Hugging Face folder"),
        "disable_ds_ckpt": NoCounterpart("checkpoints hold all that a resumed run needs; give save_strategy=no"),
        "use_ds_universal_ckpt": NoNeed("a checkpoint resumes in any layout"),
        "disable_fast_tokenizer": NoNeed("there is one tokenizer"),
        "use_liger_kernel": NoNeed("the suite has its own kernels"),
        "deepcompile": NoNeed("the suite has its own kernels"),
        "overlap_comm": NoNeed("it changes no results"),
        "gradient_checkpointing_use_reentrant": NoNeed("it says how PyTorch recomputes"),
        "grad_accum_dtype": NoCounterpart("leave it out"),
        "zpg": NoCounterpart("ZeRO++ is not built; give sharding_parallel_degree"),
        "aux_loss_coef": NoCounterpart("a balancing loss belongs to mixtures of experts"),
        "ring_attn_size": NoCounterpart("sequences are not split over processes; give tensor_parallel_degree"),
        "ring_head_stride": NoCounterpart("sequences are not split over processes"),
        "use_ms": NoCounterpart("download the model first, and name its folder"),
        "perf": NoNeed("the report shows the time of each stage"),
        "compute_fp32_loss": NoNeed("losses are computed in float32"),
    }
)
_OFFLINE: Answers = MappingProxyType(
    {
        **SHARED,
        "max_epochs": "num_train_epochs",
        "train_batch_size": accumulated("train_batch_size", "micro_train_batch_size"),
    }
)
_TRAINING = {
    "train_batch_size": 128,
    "lr_warmup_ratio": 0.03,
    "lr_scheduler": "cosine_with_min_lr",
    "adam_betas": [0.9, 0.95],
    "zero_stage": 2,
    "save_steps": -1,
    "eval_steps": -1,
    "logging_steps": 1,
}


def _offline(trainer: str, answers: Answers, **defaults: Any) -> PeerStep:
    return PeerStep(f"train {trainer}", {**_OFFLINE, **answers}, {**_TRAINING, **defaults})


def _conversations(value: Any, flags: Flags) -> Mapping[str, Any]:
    """Convert the column of prompts, which without a column of answers holds whole conversations."""
    whole = flags.is_on("apply_chat_template") and not flags.get("output_key")
    return {"messages_key" if whole else "input_key": value}


_SFT = _offline(
    "sft",
    {"input_key": _conversations},
    learning_rate=5e-6,
    max_epochs=2,
    micro_train_batch_size=8,
    max_len=2048,
    input_template=_TEMPLATE,
)
_RM = _offline("rm", {}, learning_rate=9e-6, max_epochs=1, micro_train_batch_size=1, max_len=512, input_template=None)
_DPO = _offline(
    "dpo", {}, learning_rate=1e-5, max_epochs=1, micro_train_batch_size=8, max_len=512, beta=0.1, input_template=None
)
_KTO = _offline(
    "kto",
    {"unpaired_preference": NoNeed("rows of single answers are recognised")},
    learning_rate=1e-5,
    max_epochs=1,
    micro_train_batch_size=8,
    max_len=2048,
    beta=0.01,
    input_template=_TEMPLATE,
)
_KD = _offline(
    "kd",
    {},
    learning_rate=5e-6,
    max_epochs=1,
    micro_train_batch_size=8,
    max_len=2048,
    kd_coef=0.4,
    input_template=_TEMPLATE,
)
_PRM = PeerStep(
    "train rm",
    {**_OFFLINE, "label_key": "label_key"},
    {**_TRAINING, "learning_rate": 1e-6, "max_epochs": 1, "micro_train_batch_size": 1, "max_len": 2048},
    {"objective": "process"},
)


def module(name: str) -> str:
    """Return the pattern of a module of OpenRLHF, or of its file."""
    return rf"openrlhf\.cli\.{name}|(.*/)?cli/{name}\.py"


PROGRAMS = (
    *(
        Program(SUITE, f"openrlhf.cli.{name}", module(name), always(step))
        for name, step in {
            "train_sft": _SFT,
            "train_rm": _RM,
            "train_dpo": _DPO,
            "train_kto": _KTO,
            "train_kd": _KD,
            "train_prm": _PRM,
        }.items()
    ),
)
