"""Time one PPO step by phase: this package against the same work in torch and transformers, as ratios.

    python benchmarks/ppo_step.py [--models tiny 110m] [--threads 1 2] [--steps 5] [--write]

Needs the extra ``interop``. Each side is a process of its own (two OpenMP runtimes and MKL settings do not mix); both
load the same weights, first compare what they compute on the same tokens, then take turns, one step at a time.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

# Running a script puts its own folder first on the path; the package's folder stands beside it.
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(1, str(ROOT))

from ppo_step_report import Comparison, Outcome, print_outcome, write_results  # noqa: E402
from ppo_step_work import MODELS, Work, write_weights  # noqa: E402
from side_process import KEPT_MEMORY, SideProcess  # noqa: E402

HERE = Path(__file__).resolve().parent
SCRIPTS = {"torch": HERE / "ppo_step_torch.py", "paddle": HERE / "ppo_step_paddle.py"}
COLUMNS = (("torch", "full"), ("paddle", "library"), ("torch", "response"), ("paddle", "plain"))
"""(side, variant) in the order in which they take turns."""
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
TOLERANCE = 1e-3
"""On measurements: absolute; on gradient norms: relative."""


def open_side(side: str, folder: Path, *, threads: int, extra: Mapping[str, str]) -> SideProcess:
    """Start one side with ``threads`` threads and ``extra`` environment variables."""
    environment = {**dict.fromkeys(THREAD_VARIABLES, str(threads)), **extra}
    return SideProcess(f"the {side} side", [sys.executable, str(SCRIPTS[side]), str(folder)], environment=environment)


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
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["tiny", "110m"])
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
            open_side("paddle", folder, threads=threads, extra=extra["paddle"]) as paddle,
            open_side("torch", folder, threads=threads, extra=extra["torch"]) as torch,
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
    for side, variant in COLUMNS[2:]:
        sides[side].ask(step=0, variant=variant)
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
