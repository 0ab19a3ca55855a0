"""Every layout in bfloat16 beside float32, as a table: ``python -m tests.bf16.table --write docs/bf16.md``."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from alignment.trainers.registered import TRAINERS
from tests.bf16 import bf16_runs as runs

HEADER = """# bfloat16 beside float32

Made by `make test-bf16` on a CPU, where a test fixture (`tests/bf16/cpu_site`) computes bfloat16 as tensor cores do:
exact products, float32 sums, one rounding. Trainers, layouts, the path of a GPU through attention, norms, head and
sampling, saving and resuming run unchanged. What only a GPU has does not: its kernels, NCCL, pinned memory.

Five updates of each trainer on a small random model (2 layers, width 32), weights in bfloat16, masters and score head
in float32, from weights that bfloat16 holds exactly. Every layout sees the same rows, and is compared with float32 in
one process.

- loss: the largest difference of a loss over the five updates, relative to it (PPO and GRPO: of the PTX loss, because
  the others belong to the tokens that were sampled).
- gradient: the norm of the difference of the first update's gradient, relative to its norm; not given where another
  token was sampled.
- tokens: the share of tokens in the first responses that float32 sampled too. A token that changes, changes what
  follows it.
- log-prob gap: the 99th percentile, over the tokens of an iteration, of the difference between the rollout's and the
  trainer's log-probs; the largest of five iterations, in nats.
  By this fixture both round at the same points, so little is left; a GPU's kernels sum in other orders.
- resumed: whether a run continued from its second checkpoint ended with the files (weights, masters, moments) of the
  run that was not stopped, bit for bit.

"""
ROUNDED = """
## float32_matmul_precision: medium

The same runs in float32 whose products of linear layers and vocabulary heads round both operands to bfloat16 and sum in
float32, in the gradients as well; weights, gradients, moments, norms and attention are float32. A run leaves these
products to oneDNN, which rounds only on a processor with AVX512_BF16 or AMX: it is asked at the start, and a run on
another processor is refused. Here the rounding is done beforehand (`tests/bf16/rounded.py`), so this table shows
the error and not the speed, which nobody has measured yet. oneDNN's own products were compared with it on a Zen 4 on
2026-11-30, in one process and TP2, with recompute, LoRA and batches by tokens as well: the first gradients differ by
less than 4e-4, and resumed runs end with the same bits.

"""
COLUMNS = ("layout", "processes", "trainer", "loss", "gradient", "tokens", "log-prob gap", "resumed")


def rows_of(folder: Path, name: str, exact: dict[str, runs.Run], *, way: str) -> Iterator[tuple[str, ...]]:
    """Yield the rows of the layout ``name``; ``exact`` are the runs in float32."""
    for case, run in runs.train(folder, name, way=way).items():
        tokens = runs.same_tokens(run, exact[case]) if runs.is_sampled(case) else None
        gaps = [record["rollout/logprob_gap_p99"] for record in run.metrics if runs.is_sampled(case)]
        yield (
            name,
            str((runs.LAYOUTS | runs.NIGHTLY)[name][0]),
            TRAINERS[case].label if case in TRAINERS else case.upper(),
            f"{runs.loss_gap(run, exact[case]):.1e}",
            f"{runs.gradient_gap(run, exact[case]):.1e}" if tokens in (None, 1.0) else "",
            "" if tokens is None else f"{tokens:.0%}",
            f"{max(gaps):.4f}" if gaps else "",
            "same bits" if runs.same_bits(run) else "DIFFERENT",
        )


def main() -> int:
    """Print the table; return 1 where a resumed run differs."""
    parser = argparse.ArgumentParser(prog="tests.bf16.table", description=__doc__)
    parser.add_argument("--write", type=Path, help="also write it to this Markdown file")
    arguments = parser.parse_args()
    text = HEADER
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        runs.make_start(folder)
        exact = runs.train(folder, "one process", way="float")
        text += _table(folder, exact, way="half") + ROUNDED + _table(folder, exact, way="rounded")
    if arguments.write:
        arguments.write.write_text(text, encoding="utf-8")
    return int("DIFFERENT" in text)


def _table(folder: Path, exact: dict[str, runs.Run], *, way: str) -> str:
    """Return the rows of every layout, printing each as it comes."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + " --- |" * len(COLUMNS)]
    for layout in runs.LAYOUTS | runs.NIGHTLY:
        for row in rows_of(folder, layout, exact, way=way):
            lines.append("| " + " | ".join(row) + " |")
            print(lines[-1], flush=True)
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
