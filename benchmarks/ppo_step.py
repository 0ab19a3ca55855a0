"""Time one PPO step by phase: this package against the same work in torch and transformers, as ratios.

    python benchmarks/ppo_step.py [--models tiny 110m] [--threads 1 2] [--steps 5] [--write]

Needs the extra ``interop``. Each side is a process of its own (two OpenMP runtimes and MKL settings do not mix); both
load the same weights, first compare what they compute on the same tokens, then take turns, one step at a time.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# Running a script puts its own folder first on the path; the package's folder stands beside it.
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(1, str(ROOT))

from ppo_step_report import Comparison, Outcome, print_outcome, write_results  # noqa: E402
from ppo_step_work import MODELS, Work, write_weights  # noqa: E402

HERE = Path(__file__).resolve().parent
SCRIPTS = {"torch": HERE / "ppo_step_torch.py", "paddle": HERE / "ppo_step_paddle.py"}
COLUMNS = (("torch", "full"), ("paddle", "library"), ("torch", "response"))
"""(side, variant) in the order in which they take turns."""
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
TOLERANCE = 1e-3
"""On measurements: absolute; on gradient norms: relative."""
KEPT_MEMORY = "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=2147483647:glibc.malloc.top_pad=67108864"
"""What ``prepare_host`` sets through mallopt for Paddle, as a tunable for a process we do not write."""


class SideProcess:
    """One side behind its pipes; a context manager that ends the process."""

    def __init__(self, side: str, folder: Path, *, threads: int, extra: Mapping[str, str]) -> None:
        environment = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(threads)), **extra}
        self._side = side
        self._process = subprocess.Popen(
            [sys.executable, str(SCRIPTS[side]), str(folder)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.description: dict[str, str] = self._read()

    def __enter__(self) -> SideProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stdin.close()
        self._process.wait()

    def ask(self, **command: Any) -> dict[str, Any]:
        """Send a command and return the answer."""
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"the {self._side} side ended with status {self._process.wait()}; see its output above")
        return json.loads(line)


def main() -> int:
    """Run what the command line asks for; non-zero when the two sides do not compute the same."""
    options = parse_options()
    outcomes = [
        measure(model, threads=threads, options=options) for model in options.models for threads in options.threads
    ]
    if options.write:
        print(f"wrote {write_results(outcomes, options.results)}")
    return 0 if all(outcome.agrees for outcome in outcomes) else 1


def parse_options() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--threads", nargs="+", type=int, default=[1])
    parser.add_argument("--steps", type=int, default=5, help="measured steps of each column, after one to warm up")
    parser.add_argument("--write", action="store_true", help="write a dated markdown and JSON file")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder for --write")
    parser.add_argument(
        "--peer-keeps-memory",
        action="store_true",
        help="give torch the allocator settings that the package sets for Paddle; people do not, by default",
    )
    return parser.parse_args()


def measure(model: str, *, threads: int, options: argparse.Namespace) -> Outcome:
    """Compare and time both sides on ``model``."""
    work = Work(model=model, threads=threads)
    extra = {"torch": {"GLIBC_TUNABLES": KEPT_MEMORY} if options.peer_keeps_memory else {}, "paddle": {}}
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="ppo-step-") as name:
        folder = Path(name)
        write_weights(model, folder, seed=work.seed)
        work.write(folder)
        with (
            SideProcess("paddle", folder, threads=threads, extra=extra["paddle"]) as paddle,
            SideProcess("torch", folder, threads=threads, extra=extra["torch"]) as torch,
        ):
            sides = {"paddle": paddle, "torch": torch}
            comparison = compare_results(sides)
            seconds = take_turns(sides, options.steps)
            versions = {**paddle.description, **torch.description}
    settings = {**versions, "peer_keeps_memory": options.peer_keeps_memory, "load_before": round(load, 2)}
    outcome = Outcome(work=work, comparison=comparison, seconds=seconds, settings=settings, tolerance=TOLERANCE)
    print_outcome(outcome)
    return outcome


def compare_results(sides: Mapping[str, SideProcess]) -> Comparison:
    """Run a step on the same tokens on both sides and compare; every column is warm afterwards."""
    comparison = Comparison.of(
        sides["paddle"].ask(check=True, variant="library"), sides["torch"].ask(check=True, variant="full")
    )
    sides["torch"].ask(step=0, variant="response")
    return comparison


def take_turns(sides: Mapping[str, SideProcess], steps: int) -> dict[str, list[dict[str, Sequence[float]]]]:
    """Return for each column the phases' [wall, CPU] seconds, a record a step."""
    seconds: dict[str, list] = {f"{side}/{variant}": [] for side, variant in COLUMNS}
    for step in range(1, steps + 1):
        for side, variant in COLUMNS:
            seconds[f"{side}/{variant}"].append(sides[side].ask(step=step, variant=variant))
    return seconds


if __name__ == "__main__":
    sys.exit(main())
