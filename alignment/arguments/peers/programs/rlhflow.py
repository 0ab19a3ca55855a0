"""The scripts of RLHFlow's Online-RLHF (RAPO) and RLHF-Reward-Modeling with their defaults."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from alignment.arguments.peers.programs.program import (
    DRAWN,
    Answers,
    Flags,
    NoCounterpart,
    NoNeed,
    PeerStep,
    Program,
    ReadWith,
    always,
    half,
    jsonl,
    stage_of,
    steps_or_never,
)

_ONLINE, _REWARDS = "RLHFlow Online-RLHF (RAPO)", "RLHFlow RLHF-Reward-Modeling"


def lines(key: str) -> Any:
    """Name a file of JSON lines in place of the one JSON object that these scripts write."""
    return lambda value, flags: {key: str(value).removesuffix(".json") + ".jsonl"}


_TRAINED: Answers = MappingProxyType(
    {
        "bf16": half,
        "deepspeed": stage_of,
        "model_name": "model_name_or_path",
        "optim": NoNeed("the optimizer is AdamW; give offload_level=optimizer to keep its state in host memory"),
        "max_training_samples": ReadWith("train_dir", DRAWN),
    }
)
_SFT = PeerStep(
    "train sft",
    {**_TRAINED, "dataset_name": jsonl("train_datasets")},
    {
        "model_name": "meta-llama/Meta-Llama-3-8B",
        "dataset_name": "RLHFlow/SFT-OpenHermes-2.5-Standard",
        "per_device_train_batch_size": 1,
        "per_device_eval_batch_size": 1,
        "gradient_accumulation_steps": 4,
        "learning_rate": 2e-5,
        "num_train_epochs": 1,
        "gradient_checkpointing": True,
        "bf16": True,
        "lr_scheduler_type": "cosine",
        "max_length": 4096,
        "output_dir": "./models/sft_model_llama3",
    },
    {
        "chat_template": "tokenizer",
        "loss_on": "all",
        "warmup_ratio": 0.03,
        "save_strategy": "epoch",
        "logging_steps": 10,
    },
    notes={
        "packing": "rows are not joined to 4096 tokens each: an update has so many rows, so give a larger "
        "gradient_accumulation_steps"
    },
)


def _servers(value: Any, flags: Flags) -> Mapping[str, Any]:
    """Name the ports of this machine, or of that of ``url``."""
    ports, url = value if isinstance(value, list) else str(value).split(), str(flags.get("url", "http://localhost"))
    is_here = url.rpartition("/")[2] in ("localhost", "127.0.0.1")
    return {"servers": [str(port) if is_here else f"{url}:{port}" for port in ports]}


_SAMPLED: Answers = MappingProxyType(
    {
        "dataset_name_or_path": jsonl("prompts"),
        "output_dir": lines("output_file"),
        "use_beam_search": NoCounterpart("answers are sampled"),
        "local_index": ReadWith("my_world_size"),
        "tokenizer": lambda value, flags: {} if flags.get("model_name_or_path") else {"model_name_or_path": value},
        "ports": _servers,
        "url": ReadWith("ports"),
        "bos_format": NoNeed("the tokenizer's template begins the prompt"),
        "max_workers": NoCounterpart("give per_device_rollout_batch_size, the answers asked of each server at once"),
    }
)
_GENERATE = PeerStep(
    "generate",
    _SAMPLED,
    {
        "K": 8,
        "temperature": 0.7,
        "max_input_length": 10000,
        "max_new_tokens": 2048,
        "seed": 42,
        "my_world_size": 4,
        "dataset_key": "context_messages",
    },
    {"chat_template": "tokenizer"},
)
_ASKED = _GENERATE._replace(
    defaults={**{k: v for k, v in _GENERATE.defaults.items() if k != "my_world_size"}, "ports": "8000"},
    notes={
        "api_server": "vLLM's api_server has a request form of its own; the ports need OpenAI-compatible servers: "
        "alignment serve --policy MODEL --port 8000, or vllm serve; num_workers in place of servers needs none"
    },
)
_SCORE = PeerStep(
    "score",
    {
        "dataset_name_or_path": lines("answers_file"),
        "output_dir": lines("output_file"),
        "record_dir": NoCounterpart("the last line of the log has the mean of the rewards"),
        "input_output_delimiter": NoCounterpart("give change_of_format=file.py:function, which joins the two"),
    },
    {"reward_name_or_path": "sfairXC/FsfairX-LLaMA3-RM-v0.1", "K": 8},
)


def _pairs(value: Any) -> str:
    return str(value).removesuffix(".json").removesuffix(".jsonl") + ".pairs.jsonl"


def _held_out(value: Any, flags: Flags) -> Mapping[str, Any] | NoNeed:
    """Name the first pairs of another scored file, from which they are selected as those of ``train_dir`` are."""
    if str(flags.get("evaluation_strategy", flags.get("eval_strategy", "no"))) == "no":
        return NoNeed("nothing is evaluated: evaluation_strategy is no")
    return {"eval_datasets": f"jsonl:100/-1:{_pairs(value)}"}


_SELECT = PeerStep(
    "select",
    {
        "train_dir": lambda value, flags: {**lines("scored_file")(value, flags), "output_file": _pairs(value)},
        "len_penalty": lambda value, flags: {"len_penalty": value} if flags.get("choose_type") == "max_min_p" else {},
    },
    {"choose_type": "max_random"},
    takes=frozenset({"train_dir", "choose_type", "len_penalty"}),
)
_DPO = PeerStep(
    "train dpo",
    {
        **_TRAINED,
        "train_dir": lambda value, flags: {"train_datasets": f"jsonl:1.0:{_pairs(value)}"},
        "eval_dir": _held_out,
        "sanity_check": NoCounterpart("give jsonl:100/-1:PATH as train_datasets"),
        "ignore_bias_buffers": NoNeed("it works around a fault of torch's DDP"),
        "eot_token": NoNeed("every answer ends with the end token"),
        "eos_padding": NoNeed("padding is never trained on"),
        "margin_scale": NoNeed("the margins of its pairs are not read by the loss"),
    },
    {
        "learning_rate": 5e-5,
        "num_train_epochs": 3,
        "per_device_train_batch_size": 8,
        "max_length": 512,
        "max_prompt_length": 128,
        "beta": 0.1,
        "loss_type": "sigmoid",
        "save_steps": 500,
        "logging_steps": 500,
    },
    {"chat_template": "tokenizer", "on_overlong": "left"},
)
_RM = PeerStep(
    "train rm",
    {
        **_TRAINED,
        "train_set_path": jsonl("train_datasets"),
        "eval_set_path": lambda value, flags: {"eval_datasets": f"jsonl:500/-1:{value}"},
        "output_path": "output_dir",
        "save_every_steps": steps_or_never("save_steps", "save_strategy"),
        "eval_every_steps": steps_or_never("eval_steps", "evaluation_strategy"),
    },
    {
        "model_name": "google/gemma-2b-it",
        "train_set_path": "weqweasdas/preference_dataset_mix2",
        "output_path": "./bt_models/gemma2b_rm",
        "per_device_train_batch_size": 1,
        "per_device_eval_batch_size": 1,
        "gradient_accumulation_steps": 32,
        "learning_rate": 1e-5,
        "weight_decay": 0.001,
        "num_train_epochs": 1,
        "gradient_checkpointing": True,
        "bf16": True,
        "lr_scheduler_type": "cosine",
        "max_length": 4096,
        "save_every_steps": 999999,
        "eval_every_steps": 999999,
    },
    {"chat_template": "tokenizer", "on_overlong": "left", "warmup_ratio": 0.03, "logging_steps": 10},
)
_BENCHMARK = PeerStep(
    "eval",
    {
        "data_set_name": "pairs_file",
        "reward_name_or_path": "reward_sources",
        "record_dir": lambda value, flags: {
            "record_file": value,
            "output_dir": str(value).removesuffix(".txt").removesuffix(".csv"),
        },
    },
    {
        "data_set_name": "allenai/reward-bench",
        "record_dir": "./bench_mark_eval.txt",
        "reward_name_or_path": "sfairXC/FsfairX-LLaMA3-RM-v0.1",
    },
    {"task": "reward_accuracy", "sections": "rewardbench"},
    notes={
        "truncation": "pairs too long for the model are dropped and counted, not cut",
        "data_set_name": "pairs_file names a local copy of the dataset (a file or a folder)",
    },
)

PROGRAMS = (
    Program(_ONLINE, "sft.py", r"(.*/)?sft/sft\.py", always(_SFT)),
    Program(_ONLINE, "get_hf2.py", r"(.*/)?(get|gen)_hf2\.py", always(_GENERATE)),
    Program(_ONLINE, "gen_hf.py", r"(.*/)?gen_hf\.py", always(_ASKED)),
    Program(_ONLINE, "get_rewards.py", r"(.*/)?get_rewards\.py", always(_SCORE)),
    Program(_ONLINE, "run_dpo.py", r"(.*/)?dpo_iteration/run_dpo\.py", always(_SELECT, _DPO)),
    Program(_REWARDS, "eval_reward_bench_bt.py", r"(.*/)?eval_reward_bench_bt\.py", always(_BENCHMARK)),
    Program(_REWARDS, "gemma_rm.py", r"(.*/)?(gemma|mistral|llama3)(_\w+)?_rm\.py", always(_RM)),
)
NEAREST: Mapping[str, str] = MappingProxyType(
    {
        r"(.*/)?(run_8gpu|register_server)\.sh": "alignment serve --policy MODEL --port 8000 in a process for each "
        "port, or num_workers in place of servers",
        r"(.*/)?run_loop2?\.sh": "alignment loop config/loops/rapo_iterative_dpo.json (the README of RAPO) or "
        "config/loops/rlhflow_online_dpo.json (its newest loop)",
    }
)
"""What comes nearest to scripts that are no single command, by a pattern of their names."""
MERGED = r"(.*/)?merge_data\.py"
"""Matches the script that joins the files of several ``get_hf2.py``."""
