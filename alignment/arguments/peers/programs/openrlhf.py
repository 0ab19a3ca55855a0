"""OpenRLHF's commands with the defaults of versions 0.5 to 0.8."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from alignment.arguments.peers.programs.program import (
    DRAWN,
    TRACKED,
    Answers,
    Flags,
    NoCounterpart,
    NoNeed,
    Program,
    ReadWith,
    Step,
    accumulated,
    always,
    half,
    jsonl,
    switch,
)

_SUITE = "OpenRLHF"
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


_SHARED: Answers = MappingProxyType(
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
        **_SHARED,
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


def _offline(trainer: str, answers: Answers, **defaults: Any) -> Step:
    return Step(f"train {trainer}", {**_OFFLINE, **answers}, {**_TRAINING, **defaults})


def _conversations(value: Any, flags: Flags) -> Mapping[str, Any]:
    """Convert the column of prompts, which without a column of answers holds whole conversations."""
    whole = flags.is_on("apply_chat_template") and not flags.get("output_key")
    return {"messages_key" if whole else "input_key": value}


_SFT = _offline(
    "sft",
    {"input_key": _conversations},
    learning_rate=5e-6,
    max_epochs=2,
    micro_train_batch_size=5,
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
_PRM = Step(
    "train rm",
    {**_OFFLINE, "label_key": "label_key"},
    {**_TRAINING, "learning_rate": 1e-6, "max_epochs": 1, "micro_train_batch_size": 1, "max_len": 2048},
    {"objective": "process"},
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
    """Convert the switch: only PPO's has a key, since elsewhere the coefficient says where the KL is."""
    if flags.get("advantage_estimator") in (None, "gae"):
        return {"use_kl_loss": True}
    return NoNeed("kl_loss_coeff says that the KL is in the loss")


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
        **_SHARED,
        "max_epochs": "update_iters",
        "num_episodes": "num_train_epochs",
        "train_batch_size": _prompts_of_update,
        "rollout_batch_size": "global_batch_size",
        "generate_max_len": _length,
        "actor_learning_rate": "learning_rate",
        "init_kl_coef": _kl,
        "kl_estimator": _estimator,
        "use_kl_estimator_k3": switch(kl_estimator="k3"),
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
_PPO = Step("train ppo", _PPO_ANSWERS, _PPO_DEFAULTS, {"preset": "openrlhf"})


def _on_policy(given: Mapping[str, Any]) -> Sequence[Step]:
    """Return the step: the preset is PPO's, so other estimators get its values one by one."""
    estimator = given.get("advantage_estimator", "gae")
    if estimator == "gae":
        return (_PPO,)
    defaults = {key: value for key, value in _PPO_DEFAULTS.items() if key != "critic_learning_rate"}
    keys = {"normalize_advantage": estimator not in ("group_norm", "dr_grpo")}
    return (Step("train ppo", _PPO_ANSWERS, defaults, keys, like="openrlhf"),)


_SAMPLED: Answers = MappingProxyType(
    {
        **_SHARED,
        "dataset": jsonl("prompts"),
        "dataset_split": "split",
        "bf16": NoNeed("the model is read in the type of its files"),
        "zero_stage": NoNeed("each of num_workers processes has a copy of the model"),
        "tp_size": NoCounterpart("each of num_workers processes has a copy of the model"),
        "enable_prefix_caching": NoNeed("it changes no answers"),
        "greedy_sampling": switch(do_sample=False),
        "micro_batch_size": lambda value, flags: (
            {} if flags.get("max_num_seqs") else {"per_device_rollout_batch_size": value}
        ),
        "max_len": NoNeed("prompt_max_len and max_new_tokens limit both parts"),
        "output_key": NoNeed("answers stand under responses"),
        "eval_task": NoNeed("generate and score are two commands"),
        "value_head_prefix": NoNeed("a policy has no score head"),
        "enable_csft": NoCounterpart("write the reward into the prompts"),
        "csft_prompt": NoCounterpart("write the reward into the prompts"),
    }
)
_GENERATE = Step(
    "generate",
    _SAMPLED,
    {"max_new_tokens": 1024, "prompt_max_len": 1024, "seed": 1234, "input_template": None},
)


def _scored(value: Any, flags: Flags) -> Mapping[str, Any]:
    """Name what is scored after what is selected from it, if something is."""
    return {"output_file": f"{value}.scored.jsonl" if flags.get("post_processor") else value}


_SCORE = Step(
    "score",
    {
        **_SAMPLED,
        "dataset": "answers_file",
        "pretrain": "reward_sources",
        "output_path": _scored,
        "value_head_prefix": "value_head_prefix",
        "micro_batch_size": "per_device_reward_batch_size",
        "max_len": NoCounterpart("answers are scored whole"),
        "max_samples": NoCounterpart("score a file of that many rows"),
        "seed": NoNeed("scores are not random"),
        "input_key": NoCounterpart("write rows with prompt and response, or input and output"),
        "apply_chat_template": NoNeed("a reward model reads the template it was trained with"),
        "input_template": NoNeed("a reward model reads the template it was trained with"),
        "post_processor": ReadWith("output_path", "select reads what is scored"),
    },
    {"micro_batch_size": 16},
)
_SELECT = Step(
    "select",
    {
        "output_path": lambda value, flags: {"scored_file": f"{value}.scored.jsonl", "output_file": value},
        "normalize_reward": lambda value, flags: (
            {"normalize_reward": True} if flags.get("post_processor") == "csft" else {}
        ),
    },
    takes=frozenset({"post_processor", "output_path", "normalize_reward", "reward_template"}),
)


def _batch_inference(given: Mapping[str, Any]) -> Sequence[Step]:
    if given.get("eval_task") != "rm":
        return (_GENERATE,)
    is_selected = given.get("post_processor") not in (None, "None", "null")
    return (_SCORE._replace(takes=None), _SELECT) if is_selected else (_SCORE,)


def _module(name: str) -> str:
    return rf"openrlhf\.cli\.{name}|(.*/)?cli/{name}\.py"


PROGRAMS = (
    *(
        Program(_SUITE, f"openrlhf.cli.{name}", _module(name), always(step))
        for name, step in {
            "train_sft": _SFT,
            "train_rm": _RM,
            "train_dpo": _DPO,
            "train_kto": _KTO,
            "train_kd": _KD,
            "train_prm": _PRM,
        }.items()
    ),
    Program(_SUITE, "openrlhf.cli.train_ppo_ray", _module("train_ppo(_ray)?"), _on_policy),
    Program(_SUITE, "openrlhf.cli.batch_inference", _module("batch_inference"), _batch_inference),
)
