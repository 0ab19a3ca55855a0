"""The arms of ``learning.py``: what each run of this package and of TRL is asked to do. Needs no framework."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from learning_prepare import REWARD_SEED

HERE = Path(__file__).resolve().parent
ROWS = 64
"""Responses of a rollout, on both sides."""
TRL_RATES = {"ppo": 1e-3, "grpo": 1e-3}
"""PPO: the better one of 3e-4 and 1e-3 by the final true score on the sorting task with seed 102. GRPO: as before."""
TRL_ROLLOUTS = {"ppo": 40, "grpo": 60}
_GROUPS = {"per_device_prompt_batch_size": ROWS // 8, "num_return_sequences": 8}
_PROMPTS = {"per_device_prompt_batch_size": ROWS, "num_return_sequences": 1}
_PPO = {**_PROMPTS, "per_device_train_batch_size": ROWS}
_GRPO = {"rl_algorithm": "grpo", **_GROUPS, "per_device_train_batch_size": ROWS}
_RLOO = {**_GRPO, "rl_algorithm": "rloo"}
_RECOMMENDED = {"preset": "recommended"}
OURS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "ppo": {**_PPO, "learning_rate": TRL_RATES["ppo"], "max_steps": 40},
        "ppo preset trl": {
            **_PPO,
            "preset": "trl",
            "temperature": 1.0,
            "learning_rate": TRL_RATES["ppo"],
            "critic_learning_rate": TRL_RATES["ppo"],
            "max_steps": 160,
        },
        "ppo recommended": {**_RECOMMENDED, "rl_algorithm": "ppo", "max_steps": 56},
        "grpo": {**_GRPO, "learning_rate": TRL_RATES["grpo"], "max_steps": 60},
        "grpo preset trl": {**_GRPO, "preset": "trl", "learning_rate": TRL_RATES["grpo"], "max_steps": 60},
        "grpo recommended": {**_RECOMMENDED, "rl_algorithm": "grpo", "max_steps": 56},
        "rloo": {**_RLOO, "learning_rate": TRL_RATES["grpo"], "max_steps": 60},
        "rloo recommended": {**_RECOMMENDED, "rl_algorithm": "rloo", "max_steps": 88},
        "ppo recommended, 24 updates": {**_RECOMMENDED, "rl_algorithm": "ppo", "max_steps": 24},
        "grpo recommended, 16 updates": {**_RECOMMENDED, "rl_algorithm": "grpo", "max_steps": 16},
        "rloo recommended, 48 updates": {**_RECOMMENDED, "rl_algorithm": "rloo", "max_steps": 48},
        "rloo recommended, 320 updates": {**_RECOMMENDED, "rl_algorithm": "rloo", "max_steps": 320},
        "dpo": {"per_device_train_batch_size": 32, "learning_rate": 3e-4, "lr_scheduler_type": "cosine", "beta": 0.1},
    }
)
"""Arm to its keys, which the files of the task are added to; 56 updates of PPO and 88 of RLOO, which makes two passes,
take about an eighth of TRL's CPU seconds on a quiet machine.
"""
PEER = ("trl ppo", "trl grpo")
POINTS = {"trl": 4, "ours": 8}
"""Points of a curve after its start. TRL's runs are compared by their last one, ours by the first that is as good."""


def settings_of(arm: str, *, task: str, seed: int, data: Path, run: Path) -> dict[str, Any]:
    """Return the ``settings.json`` of an arm."""
    common = {"task": task, "data": str(data), "seed": seed}
    if arm in PEER:
        algorithm = arm.removeprefix("trl ")
        rollouts = TRL_ROLLOUTS[algorithm]
        return common | {
            "algorithm": algorithm,
            "policy": str(data / "start" / "policy"),
            "reward": str(reward_of(task, data)),
            "rows": ROWS,
            "rollouts": rollouts,
            "every": rollouts // POINTS["trl"],
            "arguments": {"learning_rate": TRL_RATES[algorithm]},
        }
    arguments = _shared(run, seed) | (_offline(data) if arm == "dpo" else _on_policy(data, task)) | OURS[arm]
    arguments["eval_steps"] = arguments["max_steps"] // POINTS["ours"]
    return common | {"trainer": "dpo" if arm == "dpo" else "ppo", "arguments": arguments}


def reward_of(task: str, data: Path) -> Path:
    """Return the folder of the reward model of a task."""
    return data.parent / f"{task}-{REWARD_SEED}" / "rm" / "reward"


def _shared(run: Path, seed: int) -> dict[str, Any]:
    return {
        "chat_template": "tokenizer",
        "max_length": 48,
        "output_dir": str(run / "run"),
        "overwrite_output_dir": True,
        "seed": seed,
        "evaluation_strategy": "steps",
        "save_strategy": "no",
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
    }


def _on_policy(data: Path, task: str) -> dict[str, Any]:
    judge = {"name": f"{HERE / 'learning_tasks.py'}:truth", "options": {"task": task}, "log_as": "truth"}
    return {
        "train_datasets": f"jsonl:1:{data / 'prompts_train.jsonl'}",
        "eval_datasets": f"jsonl:1:{data / 'prompts_test.jsonl'}",
        "actor_model_name_or_path": str(data / "start" / "policy"),
        "reward_model_name_or_path": str(reward_of(task, data)),
        "remove_same_inputs": False,  # as TRL: unique prompts would be longer ones, a harder task
        "max_dec_len": 16,
        "per_device_eval_batch_size": 200,
        "temperature": 1.0,
        "top_p": 1.0,
        "eval_reward": [judge],
    }


def _offline(data: Path) -> dict[str, Any]:
    return {
        "train_datasets": f"jsonl:1:{data / 'pairs_train.jsonl'}",
        "eval_datasets": f"jsonl:1:{data / 'pairs_test.jsonl'}",
        "model_name_or_path": str(data / "start" / "policy"),
        "per_device_eval_batch_size": 64,
        "max_steps": 120,
    }
