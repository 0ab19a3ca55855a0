"""The models that every run of ``learning.py`` starts from: a supervised policy and a reward model of a task.

The policy has seen few demonstrations, so that its greedy answers can improve as well. The reward model starts from one
that has seen many: what it knows of a task should not end where the policy starts.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from learning_tasks import write_task

ROOT = Path(__file__).resolve().parents[1]
COMMON = {
    "chat_template": "tokenizer",
    "max_length": 48,
    "overwrite_output_dir": True,
    "per_device_train_batch_size": 32,
    "per_device_eval_batch_size": 64,
    "lr_scheduler_type": "cosine",
    "warmup_ratio": 0.05,
    "adam_beta2": 0.95,
    "weight_decay": 0.1,
    "evaluation_strategy": "epoch",
    "save_strategy": "no",
    "logging_steps": 25,
}


def prepare(task: str, seed: int, folder: Path) -> None:
    """Write the task's files into ``folder`` and train ``start/policy`` (and ``rm/reward`` in one of a task's folders).

    What is there is kept.
    """
    write_task(task, seed, folder)
    new = {
        "model_config_name_or_path": folder / "model",
        "tokenizer_name_or_path": folder / "model",
        "learning_rate": 0.003,
    }
    stages: dict[str, dict[str, Any]] = {
        "start": {**new, "max_steps": START_STEPS[task]},
        "sft": {**new, "num_train_epochs": 4},
        "rm": {
            "model_name_or_path": folder / "sft" / "policy",
            "num_train_epochs": 4,
            "per_device_train_batch_size": 64,
            "learning_rate": 0.003,
            "loss_type": "sequence-wise",
            "regularization": 0.001,
        },
    }
    for stage, own in stages.items():
        if stage != "start" and seed != REWARD_SEED:
            continue
        if any((folder / stage).glob("*/config.json")):
            continue
        rows = {"rm": "pairs"}.get(stage, "sft")
        arguments = {**COMMON, **own, "output_dir": folder / stage, "seed": seed}
        arguments |= {f"{k}_datasets": f"jsonl:1:{folder}/{rows}_{s}.jsonl" for k, s in SPLITS.items()}
        train(stage, arguments, folder)


REWARD_SEED = 1
"""Seed of the reward model, which all seeds of a task share."""
START_STEPS = {"packing": 300, "sorting": 300, "closing": 150}
"""Steps of 32 demonstrations for the policy."""
SPLITS = {"train": "train", "eval": "test"}
TRAINER = {"start": "sft"}


def train(stage: str, arguments: dict[str, Any], folder: Path) -> None:
    """Run a trainer of this package with ``arguments``; its output goes to a log."""
    file = folder / f"{stage}.json"
    file.write_text(json.dumps(arguments, default=str), encoding="utf-8")
    with (folder / f"{stage}.log").open("w", encoding="utf-8") as log:
        command = [sys.executable, "-m", "alignment", "train", TRAINER.get(stage, stage), str(file)]
        subprocess.run(command, check=True, stdout=log, stderr=log, cwd=ROOT)
