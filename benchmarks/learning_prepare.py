"""The models that every run of ``learning.py`` starts from: a supervised policy and a reward model of a task."""

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
    """Write the task's files into ``folder`` and train ``sft/policy`` and ``rm/reward``; what is there is kept."""
    if (folder / "rm" / "reward" / "config.json").is_file():
        return
    write_task(task, seed, folder)
    stages = {
        "sft": {
            "model_config_name_or_path": folder / "model",
            "tokenizer_name_or_path": folder / "model",
            "num_train_epochs": 4,
            "learning_rate": 0.003,
        },
        "rm": {
            "model_name_or_path": folder / "sft" / "policy",
            "num_train_epochs": 3,
            "learning_rate": 0.0015,
            "loss_type": "sequence-wise",
            "regularization": 0.001,
        },
    }
    for stage, own in stages.items():
        rows = {"sft": "sft", "rm": "pairs"}[stage]
        arguments = {**COMMON, **own, "output_dir": folder / stage, "seed": seed}
        arguments |= {f"{k}_datasets": f"jsonl:1:{folder}/{rows}_{s}.jsonl" for k, s in SPLITS.items()}
        train(stage, arguments, folder)


SPLITS = {"train": "train", "eval": "test"}


def train(stage: str, arguments: dict[str, Any], folder: Path) -> None:
    """Run a trainer of this package with ``arguments``; its output goes to a log."""
    file = folder / f"{stage}.json"
    file.write_text(json.dumps(arguments, default=str), encoding="utf-8")
    with (folder / f"{stage}.log").open("w", encoding="utf-8") as log:
        command = [sys.executable, "-m", "alignment", "train", stage, str(file)]
        subprocess.run(command, check=True, stdout=log, stderr=log, cwd=ROOT)
