"""Time SFT, reward, DPO and KTO training against TRL on the same weights, rows and order, as ratios.

    python benchmarks/offline.py --peer PEER/bin/python [--models tiny] [--objectives sft rm dpo] [--write]

PEER is an environment with trl 1.16. Each run is a process of its own; TRL, this package with micro-batches of a fixed
number of rows and this package with a token budget come one after the other, and every loss is compared. Rows are of
equal length (no padding) or ragged (a peer pads each micro-batch to its longest row).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(1, str(ROOT))

from offline_report import LEAST_STEPS, Outcome, print_outcomes, write_results  # noqa: E402
from offline_work import OBJECTIVES, SHAPES, WEIGHTS, Work  # noqa: E402
from ppo_step_work import MODELS, write_weights  # noqa: E402

HERE = Path(__file__).resolve().parent
TOKENIZER = ROOT / "alignment" / "data" / "shipped" / "packing" / "tokenizer"
"""Rows are token ids, so it is only loaded."""
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def main() -> int:
    """Run what the command line asks for; non-zero where losses differ."""
    options = parse_options()
    outcomes = []
    for model in options.models:
        with tempfile.TemporaryDirectory(prefix="offline-") as name:
            folder = Path(name)
            make_models(folder, model)
            outcomes += [
                measure(folder, options, model=model, objective=objective, shape=shape)
                for objective in options.objectives
                for shape in options.shapes
            ]
    print_outcomes(outcomes)
    if options.write:
        print(f"wrote {write_results(outcomes, options.results)}")
    return 0 if all(outcome.agrees for outcome in outcomes) else 1


def parse_options() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", required=True, help="Python interpreter of an environment with trl")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["tiny"])
    parser.add_argument("--objectives", nargs="+", choices=OBJECTIVES, default=list(OBJECTIVES))
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batches", type=int, default=4, help="micro-batches of a step")
    parser.add_argument("--write", action="store_true", help="write a dated markdown and JSON file")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder for --write")
    options = parser.parse_args()
    if options.steps < LEAST_STEPS:
        parser.error(f"--steps {options.steps}: medians need {LEAST_STEPS} or more")
    return options


def make_models(folder: Path, model: str) -> None:
    """Write the weights that both sides start from, each with a tokenizer."""
    write_weights(model, folder, seed=20261129)
    for name in set(WEIGHTS.values()):
        for file in TOKENIZER.iterdir():
            shutil.copy(file, folder / name)


def measure(folder: Path, options: argparse.Namespace, **chosen: str) -> Outcome:
    """Train on all sides as ``chosen`` says."""
    vocab_size = MODELS[chosen["model"]]["vocab_size"]
    sizes = {"steps": options.steps, "batches_per_step": options.batches, "vocab_size": vocab_size}
    work = Work(**chosen, threads=options.threads, **sizes)
    work.write(folder)
    load = os.getloadavg()[0]
    environment = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(work.threads))}
    ours = [sys.executable, str(HERE / "offline_ours.py"), str(folder)]
    sides = {
        "trl": _run([options.peer, str(HERE / "offline_trl.py"), str(folder)], environment, without="PYTHONPATH"),
        "fixed": _run([*ours, "fixed"], environment),
        "packed": _run([*ours, "packed"], environment),
    }
    return Outcome(work=work, sides=sides, load_before=round(load, 2))


def _run(command: list[str], environment: dict[str, str], *, without: str = "") -> dict[str, Any]:
    """Return what a side prints in its last line."""
    kept = {name: value for name, value in environment.items() if name != without}
    done = subprocess.run(command, env=kept, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with status {done.returncode}; see its output above")
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    sys.exit(main())
