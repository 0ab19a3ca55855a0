"""How the end-to-end tests start trainers: real scripts, tiny models made here, shipped data."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from alignment.telemetry.report.explanations import OTHER, explain
from alignment.trainers.registered import TRAINERS

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = {name: TRAINERS[name].door for name in TRAINERS if TRAINERS[name].door}
TOKENIZER = ROOT / "alignment" / "data" / "shipped" / "packing" / "tokenizer"
TINY_MODEL = {
    "model_type": "llama",
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
}
COMMON = {
    "chat_template": "tokenizer",
    "max_length": 64,
    "logging_steps": 1,
    "disable_tqdm": True,
    "report_to": "none",
    "save_strategy": "no",
    "learning_rate": 1e-3,
    "seed": 7,
}
PPO = {
    **COMMON,
    "train_datasets": "packing-prompts/train:24/-1",
    "per_device_prompt_batch_size": 4,
    "num_return_sequences": 2,
    "per_device_train_batch_size": 4,
    "max_dec_len": 8,
    "ptx_datasets": "packing-sft/train:64/-1",
    "ptx_coeff": 0.5,
    "kl_target": 1.0,
    "normalize_reward": True,
    "update_iters": 2,
    "top_p": 0.9,
}


def command(trainer: str, arguments: dict[str, Any], folder: Path) -> list[str]:
    """Write ``arguments`` to a JSON file in ``folder`` and return the command that runs ``trainer`` on it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{trainer}_argument.json"
    path.write_text(json.dumps({key: str(v) if isinstance(v, Path) else v for key, v in arguments.items()}))
    return [sys.executable, str(ROOT / SCRIPTS[trainer]), str(path)]


def environment() -> dict[str, str]:
    """Return the environment of a user's shell with one thread."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "GLOG_minloglevel": "2"}


def run(trainer: str, arguments: dict[str, Any], folder: Path, *, cwd: Path | None = None, timeout: float = 240) -> Any:
    """Run ``trainer`` to its end and return the completed process with its output as text."""
    return subprocess.run(
        command(trainer, arguments, folder),
        cwd=cwd or folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def run_ok(trainer: str, arguments: dict[str, Any], folder: Path, **options: Any) -> Any:
    """Run ``trainer`` and fail the test with its output unless it exits with 0."""
    done = run(trainer, arguments, folder, **options)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return done


def metrics(folder: Path) -> list[dict[str, Any]]:
    """Return the records of a run's metrics.jsonl, whose metrics must all be explained in the report."""
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    names = {name for record in records for name in record} - {"step", "non_finite"}
    assert [name for name in sorted(names) if explain(name).group == OTHER] == []
    return records


def computed(folder: Path) -> list[dict[str, Any]]:
    """Return the records without what the machine adds to them: seconds and memory."""
    return [
        {key: value for key, value in record.items() if not key.startswith(("time/", "memory/"))}
        for record in metrics(folder)
    ]
