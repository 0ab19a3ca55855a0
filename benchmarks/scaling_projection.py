"""Growth to 1,000 GPUs from the formulas that the counted bytes confirm: ``python benchmarks/scaling_projection.py``.

Weak scaling: every GPU that sees rows of its own keeps its number of rows. Prints the tables of docs/scaling.md.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from alignment.architecture.decoder_config import DecoderConfig  # noqa: E402
from alignment.architecture.layout import Layout  # noqa: E402
from alignment.planner.duration import update_seconds  # noqa: E402
from alignment.planner.job import Job  # noqa: E402
from alignment.planner.machine import Machine  # noqa: E402
from alignment.planner.search import evaluate  # noqa: E402

LLAMA_8B = {
    "model_type": "llama",
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 8192,
}
ROWS, LENGTH, RESPONSE, MICRO_BATCHES = 1, 2048, 1024, 8
BYTES_PER_RESPONSE_TOKEN = 8 + 5 * 4
"""An id and five float32 numbers (engine, policy and reference log-probs, entropy, value) that every process holds."""
MIB, GIB = 2**20, 2**30


def job() -> Job:
    """Return the work of one process that sees rows of its own."""
    config = DecoderConfig.from_dict(LLAMA_8B, place="Llama 8B")
    return Job(
        policy=config,
        critic=config,
        reward=config,
        half=True,
        length=LENGTH,
        response=RESPONSE,
        rows_per_batch=ROWS,
        logprob_rows=ROWS,
        value_rows=ROWS,
        reward_rows=ROWS,
        micro_batches=MICRO_BATCHES,
        iteration_rows=ROWS * MICRO_BATCHES,
        recompute="full",
    )


def main() -> None:
    """Print one row for every number of GPUs and way to use them."""
    machine = Machine()
    print(
        "| GPUs | layout | tensor GiB | pipeline GiB | gradients, weights GiB | idle | seconds | efficiency "
        "| host MiB |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for name, make in FAMILIES.items():
        first = None
        for gpus in (8, 64, 256, 1024):
            layout = make(gpus)
            found = evaluate(job(), layout, machine)
            seconds = update_seconds(found.job, layout, machine, "policy")
            per_row = seconds * gpus / layout.batch
            first = first or per_row
            host = layout.batch * ROWS * MICRO_BATCHES * RESPONSE * BYTES_PER_RESPONSE_TOKEN / MIB
            sent = " | ".join(f"{found.sent[axis] / GIB:.2f}" for axis in ("tensor", "pipeline", "batch"))
            print(
                f"| {gpus} | {name}: {layout} | {sent} | {100 * found.idle:.0f} % | {seconds:.2f} "
                f"| {100 * first / per_row:.0f} % | {host:.0f} |"
            )


FAMILIES = {
    "TP8, rest sharded": lambda gpus: Layout(tensor=8, sharding=gpus // 8, sharding_stage=1),
    "TP8, sharding 8, rest data": lambda gpus: Layout(
        tensor=8, sharding=min(8, gpus // 8), data=max(1, gpus // 64), sharding_stage=1
    ),
    "TP2, PP4, rest sharded": lambda gpus: Layout(tensor=2, pipeline=4, sharding=gpus // 8, sharding_stage=1),
    "stage 3 over all": lambda gpus: Layout(sharding=gpus, sharding_stage=3),
}

if __name__ == "__main__":
    main()
