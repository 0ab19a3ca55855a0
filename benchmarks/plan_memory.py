"""Memory of distillation, label smoothing and runs above a frozen decoder: measured, and as ``alignment plan`` says.

    python benchmarks/plan_memory.py [--write] [NAME ...]

Two updates of each case in processes of this machine's CPU, in float32 with random weights and full rows.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from alignment.device.host import prepare_host  # noqa: E402

prepare_host()

from alignment.planner.check import Measured, measure_memory  # noqa: E402
from alignment.planner.offline_job import read_offline_job  # noqa: E402
from alignment.runs.degrees import resolve_layout  # noqa: E402
from alignment.trainers.registered import TRAINERS  # noqa: E402

SHAPE = {
    "model_type": "llama",
    "vocab_size": 8192,
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_hidden_layers": 4,
    "num_attention_heads": 12,
    "num_key_value_heads": 12,
    "max_position_embeddings": 512,
}
MODELS: dict[str, dict[str, Any]] = {
    "model": {},
    "rated": {"num_labels": 3, "id2label": {"0": "a", "1": "b", "2": "c"}},
    "teacher": {"hidden_size": 1024, "num_attention_heads": 16, "num_key_value_heads": 16},
}
BATCHES = {"max_length": 128, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
SAMPLED = {"lmbda": 1.0, "kd_coef": 1.0, "max_dec_len": 32}
CASES: dict[str, tuple[str, int, dict[str, Any]]] = {
    "fused": ("kd", 1, SAMPLED),
    "eager": ("kd", 1, {**SAMPLED, "use_fusemt": False, "temperature": 1.5, "beta": 0.5}),
    "whole beside TP2": ("kd", 2, {"tensor_parallel_degree": 2, "teacher_tensor_parallel_degree": 1}),
    "whole beside PP2": ("kd", 2, {"pipeline_parallel_degree": 2, "teacher_tensor_parallel_degree": 1}),
    "TP2 beside DP2": ("kd", 2, {"teacher_tensor_parallel_degree": 2}),
    "smoothing": ("sft", 1, {"label_smoothing": 0.1}),
    "smoothing TP2": ("sft", 2, {"label_smoothing": 0.1, "tensor_parallel_degree": 2}),
    "gating": ("rm", 1, {"objective": "gating", "model_name_or_path": "rated"}),
    "gating PP2": ("rm", 2, {"objective": "gating", "model_name_or_path": "rated", "pipeline_parallel_degree": 2}),
    "head": ("rm", 1, {"train_head_only": True}),
}
"""Name to (trainer, processes, keys)."""
MIB = 2**20


def measure(name: str, folder: Path) -> list[Measured]:
    """Return what the case ``name`` needs, by phase."""
    trainer, processes, keys = CASES[name]
    for model, changes in MODELS.items():
        (folder / model).mkdir()
        (folder / model / "config.json").write_text(json.dumps({**SHAPE, **changes}))
    models = {key: "teacher" if "teacher" in key else "model" for key in TRAINERS[trainer].model_keys}
    path = folder / "arguments.json"
    path.write_text(json.dumps({"train_datasets": "d", "output_dir": "output", **BATCHES, **models, **keys}))
    parsed = TRAINERS[trainer].parse([str(path)])
    job = read_offline_job(trainer, parsed, device="cpu")
    return measure_memory(parsed, job, resolve_layout(parsed.parallel, world_size=processes))


def main() -> None:
    """Measure, print the table, and write it if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="a dated file under results/")
    parser.add_argument("names", nargs="*", help="cases (default: all)")
    given = parser.parse_args()
    table, worst = [], 0.0
    for name in given.names or CASES:
        with tempfile.TemporaryDirectory() as folder:
            for row in measure(name, Path(folder)):
                sizes = f"{row.measured / MIB:.0f} | {row.predicted / MIB:.0f} | {100 * row.difference:+.1f} %"
                table.append(f"| {CASES[name][0]} | {name} | {row.phase} | {row.what} | {sizes} |")
                worst = max(worst, row.difference, key=abs)
                print(table[-1], flush=True)
    lines = [
        f"# Memory of distillation and of frozen decoders, {datetime.date.today().isoformat()}",
        "",
        f"`python benchmarks/plan_memory.py`: {SHAPE['num_hidden_layers']} layers of {SHAPE['hidden_size']} numbers,",
        f"the teacher's of {MODELS['teacher']['hidden_size']}, {SHAPE['vocab_size']} ids, float32; micro-batches of 2",
        "rows of 128 tokens, in the fullest process. Tensors are what Paddle holds; resident memory is the process's.",
        f"The largest error of `alignment plan` is {100 * worst:+.1f} %.",
        "",
        "| trainer | case | phase | | measured MiB | predicted MiB | difference |",
        "|---|---|---|---|---|---|---|",
        *table,
    ]
    if given.write:
        name = f"{datetime.date.today().isoformat()}-plan-memory.md"
        (ROOT / "benchmarks" / "results" / name).write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
