"""Memory of LoRA and QLoRA against full training, measured by phase, and what ``alignment plan`` predicts for each.

    python benchmarks/adapter_memory.py [--write]

Two updates of each trainer in one process on this machine's CPU, in float32 with random weights and full rows.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from alignment.device.host import prepare_host  # noqa: E402

prepare_host()

from alignment.architecture.layout import Layout  # noqa: E402
from alignment.planner.check import Measured, measure_memory  # noqa: E402
from alignment.planner.offline_job import read_offline_job  # noqa: E402
from alignment.planner.on_policy_job import read_job  # noqa: E402
from alignment.trainers.registered import TRAINERS  # noqa: E402

SHAPE = {
    "model_type": "llama",
    "vocab_size": 8192,
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_key_value_heads": 12,
    "max_position_embeddings": 512,
}
WAYS: dict[str, dict[str, Any]] = {
    "full": {},
    "LoRA": {"lora": True, "lora_rank": 8},
    "QLoRA": {"lora": True, "lora_rank": 8, "load_in_4bit": True},
}
BATCHES = {"max_length": 128, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
SOURCES: dict[str, dict[str, Any]] = {
    "sft": {"train_datasets": "d", "model_name_or_path": "model"},
    "dpo": {"train_datasets": "d", "model_name_or_path": "model"},
    "ppo": {
        "train_datasets": "d",
        "actor_model_name_or_path": "model",
        "reward_model_name_or_path": "model",
        "per_device_prompt_batch_size": 4,
        "max_dec_len": 32,
    },
}
MIB = 2**20


def measure(trainer: str, way: str, folder: Path) -> list[Measured]:
    """Return what ``trainer`` needs ``way``, by phase."""
    models = {key: str(folder / value) for key, value in SOURCES[trainer].items() if value == "model"}
    path = folder / "arguments.json"
    written = {**SOURCES[trainer], **models, **BATCHES, **WAYS[way], "output_dir": str(folder / "output")}
    path.write_text(json.dumps(written))
    parsed = TRAINERS[trainer].parse([str(path)])
    is_on_policy = TRAINERS[trainer].is_on_policy
    job = read_job(parsed, device="cpu") if is_on_policy else read_offline_job(trainer, parsed, device="cpu")
    return measure_memory(parsed, job, Layout())


def table_of(found: dict[tuple[str, str], list[Measured]]) -> Iterator[str]:
    """Yield the lines of a table; the share is that of full training's measured bytes in the same phase."""
    yield "| trainer | phase | | trained | measured MiB | of full | predicted MiB | difference |"
    yield "|---|---|---|---|---|---|---|---|"
    for (trainer, way), rows in found.items():
        for row, full in zip(rows, found[trainer, "full"], strict=True):
            sizes = f"{row.measured / MIB:.0f} | {row.measured / full.measured:.2f} | {row.predicted / MIB:.0f}"
            yield f"| {trainer} | {row.phase} | {row.what} | {way} | {sizes} | {100 * row.difference:+.1f} % |"


def main() -> None:
    """Measure, print the table, and write it if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="a dated file under results/")
    given = parser.parse_args()
    found = {}
    for trainer in SOURCES:
        for way in WAYS:
            with tempfile.TemporaryDirectory() as name:
                (Path(name) / "model").mkdir()
                (Path(name) / "model" / "config.json").write_text(json.dumps(SHAPE))
                found[trainer, way] = measure(trainer, way, Path(name))
    worst = max((row for rows in found.values() for row in rows), key=lambda row: abs(row.difference))
    shape = f"{SHAPE['num_hidden_layers']} layers of {SHAPE['hidden_size']}, {SHAPE['vocab_size']} ids, float32"
    lines = [
        f"# Memory of adapters, {datetime.date.today().isoformat()}",
        "",
        f"`python benchmarks/adapter_memory.py`: {shape}; micro-batches of 2 rows of 128 tokens (DPO: pairs), rank 8.",
        "Tensors are what Paddle holds; resident memory is the process's. Of a run the largest phase counts.",
        f"The largest error of `alignment plan` is {100 * worst.difference:+.1f} %.",
        "",
        *table_of(found),
    ]
    print("\n".join(lines))
    if given.write:
        name = f"{datetime.date.today().isoformat()}-adapter-memory.md"
        (ROOT / "benchmarks" / "results" / name).write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
