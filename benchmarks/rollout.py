"""Time greedy rollouts: the eager engine against ``paddlenlp generate`` on the same weights and prompts.

    python benchmarks/rollout.py --peer-python PATH [--models 110m] [--batches 1 8 32] [--new-tokens 128] [--write]

``PATH`` is an interpreter with paddlenlp (reference environment: paddlepaddle 3.3.1, paddlenlp 3.0.0b4). Each side is
a process of its own with the same MKL path, threads and allocator settings; they take turns, one rollout at a time.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
sys.path.insert(1, str(HERE.parent))

from side_process import KEPT_MEMORY, SideProcess  # noqa: E402

from alignment.parallel.host import prepare_host  # noqa: E402

MODELS = {
    "tiny": {
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 172,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
    },
    "110m": {
        "vocab_size": 32000,
        "hidden_size": 768,
        "intermediate_size": 2048,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
    },
}


class Row(NamedTuple):
    """One model and batch: medians in seconds, and the share of equal greedy tokens."""

    model: str
    batch: int
    ours_wall: float
    peer_wall: float
    ours_cpu: float
    peer_cpu: float
    same_tokens: float


def open_side(python: str, script: str, folder: Path, *, environment: Mapping[str, str]) -> SideProcess:
    """Start ``script`` with the interpreter ``python``."""
    return SideProcess(script, [python, str(HERE / script), str(folder)], environment=environment)


def main() -> int:
    """Measure, print and, when asked, write; 1 when the peer was faster somewhere."""
    options = parse_options()
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(options.threads)
    host, load = prepare_host(), os.getloadavg()[0]
    rows, versions = [], {}
    for model in options.models:
        found, versions = measure(model, options)
        rows += found
    report = write_markdown(rows, options, host=f"{host}; load before {load:.2f}", versions=versions)
    print(report)
    if options.write:
        stem = options.results / f"{datetime.date.today():%Y-%m-%d}_rollout"
        stem.with_suffix(".md").write_text(report, encoding="utf-8")
        records = {"host": host, "versions": versions, "rows": [row._asdict() for row in rows]}
        stem.with_suffix(".json").write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
        print(f"wrote {stem}.md and .json")
    return 0 if all(row.ours_wall < row.peer_wall for row in rows) else 1


def parse_options() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", required=True, help="interpreter with paddlenlp")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["110m"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3, help="measured rollouts of each side, after one to warm up")
    parser.add_argument("--write", action="store_true", help="write a dated markdown and JSON file")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder for --write")
    return parser.parse_args()


def measure(model: str, options: argparse.Namespace) -> tuple[list[Row], dict[str, Any]]:
    """Return a row for each batch size, and what the two sides say of themselves."""
    with tempfile.TemporaryDirectory(prefix="rollout-") as name:
        folder = Path(name)
        subprocess.run([sys.executable, str(HERE / "rollout_weights.py"), model, name], check=True)
        peer_settings = {"GLIBC_TUNABLES": KEPT_MEMORY}
        with (
            open_side(sys.executable, "rollout_ours.py", folder, environment={}) as ours,
            open_side(options.peer_python, "rollout_peer.py", folder, environment=peer_settings) as peer,
        ):
            rows = [measure_batch(model, batch, (ours, peer), options) for batch in options.batches]
            return rows, {"ours": ours.description, "peer": peer.description}


def measure_batch(model: str, batch: int, sides: Sequence[SideProcess], options: argparse.Namespace) -> Row:
    """Let both sides generate in turns."""
    shape, vocab = [batch, options.prompt_tokens], MODELS[model]["vocab_size"]
    turns = []
    for repeat in range(options.repeats + 1):
        seed = max(0, repeat - 1)
        turns.append([side.ask(seed=seed, vocab=vocab, shape=shape, new_tokens=options.new_tokens) for side in sides])
    measured = turns[1:]
    wall, cpu = ([median(turn[i][clock] for turn in measured) for i in (0, 1)] for clock in ("wall", "cpu"))
    pairs = [(a, b) for ours, peer in measured for a, b in zip(flat(ours), flat(peer), strict=True)]
    return Row(model, batch, *wall, *cpu, same_tokens=sum(a == b for a, b in pairs) / len(pairs))


def flat(answer: dict[str, Any]) -> list[int]:
    """Return all tokens of an answer."""
    return [token for row in answer["tokens"] for token in row]


def write_markdown(rows: Sequence[Row], options: argparse.Namespace, *, host: str, versions: dict[str, Any]) -> str:
    """Return the report: settings, then a table."""
    lines = [
        f"# Greedy rollout, {options.prompt_tokens} + {options.new_tokens} tokens: eager engine and paddlenlp generate",
        "",
        f"{datetime.date.today()}, {options.threads} thread(s), median of {options.repeats}. {host}.",
        f"ours: {versions['ours']}; peer: {versions['peer']}.",
        "",
        "| model | batch | ours, s | paddlenlp, s | ratio | ours, CPU s | paddlenlp, CPU s | ratio | same tokens |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row.model} | {row.batch} | {row.ours_wall:.3f} | {row.peer_wall:.3f} | "
            f"{row.ours_wall / row.peer_wall:.3f} | {row.ours_cpu:.3f} | {row.peer_cpu:.3f} | "
            f"{row.ours_cpu / row.peer_cpu:.3f} | {row.same_tokens:.1%} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
