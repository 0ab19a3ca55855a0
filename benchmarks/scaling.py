"""What layouts cost: bytes sent and seconds by phase of PPO, against what a perfect layout would send.

    python benchmarks/scaling.py [--write] [--updates 3]

Every layout does the same work on the same small model. Bytes are counted where messages are sent, so they hold for
any machine; seconds are those of processes that share this machine's cores, and say nothing about a cluster.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from alignment.architecture.layout import Layout  # noqa: E402
from alignment.arguments.keys.parallel import ParallelArguments  # noqa: E402
from alignment.models.config import read_config  # noqa: E402
from alignment.parity.subjects import make_models, write_arguments  # noqa: E402
from alignment.parity.trajectory import run_trainers  # noqa: E402
from alignment.planner.job import Job  # noqa: E402
from alignment.planner.messages import update_bytes  # noqa: E402
from alignment.runs.degrees import resolve_layout  # noqa: E402
from alignment.telemetry.tables import print_table  # noqa: E402

SHAPE = {
    "model_type": "llama",
    "hidden_size": 128,
    "intermediate_size": 352,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-5,
}
ROWS_PER_UPDATE = 16
LAYOUTS: tuple[tuple[int, dict[str, Any]], ...] = (
    (1, {}),
    (2, {}),
    (4, {}),
    (8, {}),
    (2, {"tensor_parallel_degree": 2}),
    (4, {"tensor_parallel_degree": 4}),
    (8, {"tensor_parallel_degree": 8}),
    (2, {"pipeline_parallel_degree": 2}),
    (4, {"pipeline_parallel_degree": 4}),
    (8, {"pipeline_parallel_degree": 8}),
    (2, {"sharding": "stage1", "sharding_parallel_degree": 2}),
    (4, {"sharding": "stage1", "sharding_parallel_degree": 4}),
    (2, {"sharding": "stage2", "sharding_parallel_degree": 2}),
    (4, {"sharding": "stage2", "sharding_parallel_degree": 4}),
    (2, {"sharding": "stage3", "sharding_parallel_degree": 2}),
    (4, {"sharding": "stage3", "sharding_parallel_degree": 4}),
    (8, {"tensor_parallel_degree": 2, "pipeline_parallel_degree": 2, "sharding": "stage1"}),
)
PHASES = ("rollout", "score", "update")
AXES = ("tensor", "pipeline", "sharding", "data", "batch", "world")


def main(argv: Sequence[str]) -> None:
    """Run every layout and print (and with ``--write`` keep) the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="keep the result under benchmarks/results")
    options = parser.parse_args(argv)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_models(folder, SHAPE)
        for world_size, changes in LAYOUTS:
            rows.append(measure(folder, world_size, changes, options.updates))
            print(" ".join(map(str, rows[-1])), flush=True)
    columns = ["layout", "processes", *(f"{phase} s" for phase in PHASES), *(f"{phase} MiB" for phase in PHASES)]
    columns += ["policy update: counted", "formula"]
    print_table("one PPO update of all models; MiB sent by one process", columns, rows)
    if options.write:
        _write(columns, rows)


def measure(folder: Path, world_size: int, changes: Mapping[str, Any], updates: int) -> list[Any]:
    """Return one row: seconds and MiB of each phase in an average update, and the formula's MiB beside the counted."""
    words = {**changes, "sharding": (changes["sharding"],)} if "sharding" in changes else changes
    layout = resolve_layout(ParallelArguments(**words), world_size=world_size)
    micro_batches = ROWS_PER_UPDATE // 2 // layout.batch
    given = {
        **changes,
        "max_steps": updates,
        "gradient_accumulation_steps": micro_batches,
        "per_device_prompt_batch_size": ROWS_PER_UPDATE // 2 // layout.batch,
        "ptx_coeff": 0.0,
        "ptx_datasets": None,
        "recompute": False,
    }
    path = write_arguments(folder, "PPO", f"run-{world_size}-{layout}".replace(" ", "-"), given)
    trajectory = run_trainers([("PPO", path)], world_size=world_size, timeout=900)[0]
    records = trajectory.metrics[1:]

    def mean(name: str) -> float:
        return sum(record.get(name, 0.0) for record in records) / len(records)

    seconds = [round(mean(f"time/{phase}_seconds"), 3) for phase in PHASES]
    sent = [round(sum(mean(f"traffic/{phase}_{axis}_mib") for axis in AXES), 3) for phase in PHASES]
    counted = round(sum(mean(f"traffic/update_{axis}_mib") for axis in AXES if axis != "world"), 3)
    return [
        str(layout),
        world_size,
        *seconds,
        *sent,
        counted,
        round(formula(layout, folder, micro_batches, trajectory), 3),
    ]


def formula(layout: Layout, folder: Path, micro_batches: int, trajectory: Any) -> float:
    """Return the MiB that the planner expects one process to send in an update of policy and critic."""
    config = read_config(folder / "actor")
    records = trajectory.metrics[1:]
    lengths = [record["rollout/prompt_length"] + record["train/mean_generated_length"] for record in records]
    length = round(sum(lengths) / len(lengths))
    job = Job(
        policy=config,
        critic=config,
        reward=config,
        half=False,
        length=length,
        response=8,
        rows_per_batch=2,
        logprob_rows=2,
        value_rows=2,
        reward_rows=2,
        micro_batches=micro_batches,
        iteration_rows=ROWS_PER_UPDATE,
    )
    # The critic has the policy's shape but for its head, so it sends about the same.
    return 2 * sum(update_bytes(job, layout).values()) / 2**20


def _write(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    today = datetime.date.today().isoformat()
    table = ["| " + " | ".join(map(str, row)) + " |" for row in (columns, ["---"] * len(columns), *rows)]
    lines = [
        f"# Scaling, {today}",
        "",
        f"`python benchmarks/scaling.py --write`; {os.cpu_count()} cores, {platform.machine()}, Paddle on CPU (gloo), "
        f"one thread a process; model {SHAPE['num_hidden_layers']} layers x {SHAPE['hidden_size']}; "
        f"{ROWS_PER_UPDATE} rows an update in every layout. Seconds are those of processes that share the cores.",
        "",
        *table,
        "",
    ]
    (ROOT / "benchmarks" / "results" / f"{today}-scaling.md").write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
