"""Time one step by phase: this package against the same work in torch and transformers, as ratios.

    python benchmarks/ppo_step.py [--workloads a b c] [--models tiny 110m] [--threads 1 2] [--steps 5] [--write]
    python benchmarks/ppo_step.py --savings [--workloads b c] [--models tiny]

Workloads: (a) a PPO step of 8 equal rows, (b) one of 16 prompts with 4 answers each of log-normal lengths, (c) an
update of DPO and one of a reward model on 64 pairs. Needs the extra ``interop``. Each side is a process of its own (two
OpenMP runtimes and MKL settings do not mix); both load the same weights, first compare what they compute on the same
tokens, then take turns, a step at a time. ``--savings`` asks instead what each of this package's savings brings alone.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# Running a script puts its own folder first on the path; the package's folder stands beside it.
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(1, str(ROOT))

from ppo_step_cases import CASES, GROUPS  # noqa: E402
from ppo_step_report import Comparison, Outcome, print_outcome, write_results  # noqa: E402
from ppo_step_savings import measure_savings, print_savings, write_savings  # noqa: E402
from ppo_step_work import CHECKPOINTS, MODELS, write_weights  # noqa: E402
from side_process import KEPT_MEMORY, SideProcess  # noqa: E402

HERE = Path(__file__).resolve().parent
TOKENIZER = ROOT / "alignment" / "data" / "shipped" / "packing" / "tokenizer"
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
TOLERANCES = {"highest": 1e-3, "medium": 5e-2}
"""By the precision of this package's products (torch's is float32). On measurements: absolute; on gradient norms:
relative.
"""


def open_side(script: str, folder: Path, *, threads: int, extra: Mapping[str, str]) -> SideProcess:
    """Start one side with ``threads`` threads and ``extra`` environment variables."""
    environment = {**dict.fromkeys(THREAD_VARIABLES, str(threads)), **extra}
    return SideProcess(script, [sys.executable, str(HERE / script), str(folder)], environment=environment)


def main() -> int:
    """Run what the command line asks for; non-zero when the two sides do not compute the same."""
    options = parse_options()
    chosen = [
        (case, model, threads)
        for group in options.workloads
        for case in GROUPS[group]
        for model in options.models
        for threads in options.threads
    ]
    if options.savings:
        found = [run_savings(*one, options=options) for one in chosen]
        if options.write:
            print(f"wrote {write_savings(found, options.results)}")
        return 0
    outcomes = [measure(*one, options=options) for one in chosen]
    if options.write:
        print(f"wrote {write_results(outcomes, options.results)}")
    return 0 if all(outcome.agrees for outcome in outcomes) else 1


def parse_options() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", nargs="+", choices=GROUPS, default=["a"])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["tiny", "110m"])
    parser.add_argument("--threads", nargs="+", type=int, default=[1])
    parser.add_argument(
        "--steps",
        type=int,
        default=5,
        help="measured steps of each column after the first; 0: the first itself (of PPO here the second)",
    )
    parser.add_argument("--savings", action="store_true", help="what each saving brings alone, without torch")
    parser.add_argument("--skip-padded", action="store_true", help="leave out torch's padded way, which may take hours")
    parser.add_argument(
        "--peer-batches",
        type=int,
        default=0,
        help="b and c: micro-batches of a phase that torch measures, scaled by the counted work of all; 0: all of them",
    )
    parser.add_argument("--write", action="store_true", help="write a dated markdown and JSON file")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder for --write")
    parser.add_argument(
        "--float32-matmul-precision",
        choices=TOLERANCES,
        default="highest",
        help="of this package's products; medium: operands in bfloat16, on a processor that has it",
    )
    parser.add_argument(
        "--peer-keeps-memory",
        action="store_true",
        help="give torch the allocator settings that the package sets for Paddle; people do not, by default",
    )
    options = parser.parse_args()
    if options.savings and options.float32_matmul_precision != "highest":
        parser.error("--savings compares savings that change nothing, with --float32-matmul-precision highest only")
    if options.peer_batches < 0:
        parser.error(f"--peer-batches {options.peer_batches}: 0 or more")
    if options.peer_batches and "a" in options.workloads:
        parser.error("--peer-batches: workload a has one micro-batch; --workloads b c")
    return options


def prepare(folder: Path, work: Any) -> None:
    """Write the work and its weights, with a tokenizer, which our trainers read."""
    write_weights(work.model, folder, seed=work.seed)
    for name in CHECKPOINTS:
        for file in TOKENIZER.iterdir():
            shutil.copy(file, folder / name)
    work.write(folder)


def measure(case: str, model: str, threads: int, *, options: argparse.Namespace) -> Outcome:
    """Compare and time both sides on ``model``."""
    chosen = CASES[case]
    overrides = {"float32_matmul_precision": options.float32_matmul_precision}
    made = {"model": model, "threads": threads, "overrides": overrides, "peer_batches": options.peer_batches}
    work, load = chosen.make(**made), os.getloadavg()[0]
    columns = [column for column in chosen.columns if column != ("torch", "full") or not options.skip_padded]
    extra = {"torch": {"GLIBC_TUNABLES": KEPT_MEMORY} if options.peer_keeps_memory else {}, "paddle": {}}
    with tempfile.TemporaryDirectory(prefix="ppo-step-") as name:
        folder = Path(name)
        prepare(folder, work)
        opened = {side: {"threads": threads, "extra": extra[side]} for side in extra}
        with (
            open_side(chosen.scripts["paddle"], folder, **opened["paddle"]) as paddle,
            open_side(chosen.scripts["torch"], folder, **opened["torch"]) as torch,
        ):
            sides = {"paddle": paddle, "torch": torch}
            comparison, first = warm_up(sides, columns, in_part=options.peer_batches > 0)
            peaks = {column: answer["peak_bytes"] for column, answer in first.items()}
            seconds = take_turns(sides, columns, options.steps)
            if not options.steps:  # on fixed tokens ours has no log-probs of an engine, so it makes a step of its own
                seconds = {column: [answer["seconds"]] for column, answer in first.items()}
                if len(chosen.phases) > 1:
                    seconds["paddle/library"] = [paddle.ask(step=1, variant="library")["seconds"]]
            versions = {**paddle.description, **torch.description}
    settings = {**versions, **overrides, "peer_keeps_memory": options.peer_keeps_memory, "load_before": round(load, 2)}
    measured = {"comparison": comparison, "seconds": seconds, "peaks": peaks, "settings": settings}
    outcome = Outcome(case=case, work=work, tolerance=TOLERANCES[options.float32_matmul_precision], **measured)
    print_outcome(outcome)
    return outcome


def warm_up(
    sides: Mapping[str, SideProcess], columns: Sequence[tuple[str, str]], *, in_part: bool
) -> tuple[Comparison, dict[str, dict[str, Any]]]:
    """Run a first step of every column; return what both sides compute on the same tokens, and the answers.

    The first variant of a side is the one that is compared.
    """
    first = {side: next(variant for name, variant in columns if name == side) for side in sides}
    answers = {
        f"{side}/{variant}": sides[side].ask(step=0, variant=variant, memory=True, check=variant == first[side])
        for side, variant in columns
    }
    ours, peer = (answers[f"{side}/{first[side]}"]["numbers"] for side in ("paddle", "torch"))
    return Comparison.of(ours, peer, in_part=in_part), answers


def take_turns(
    sides: Mapping[str, SideProcess], columns: Sequence[tuple[str, str]], steps: int
) -> dict[str, list[dict[str, Sequence[float]]]]:
    """Return for each column the phases' [wall, CPU] seconds, a record a step."""
    seconds: dict[str, list] = {f"{side}/{variant}": [] for side, variant in columns}
    for step in range(1, steps + 1):
        for side, variant in columns:
            seconds[f"{side}/{variant}"].append(sides[side].ask(step=step, variant=variant)["seconds"])
    return seconds


def run_savings(case: str, model: str, threads: int, *, options: argparse.Namespace) -> dict[str, Any]:
    """Measure and print what each saving brings."""
    work, script = CASES[case].make(model=model, threads=threads), CASES[case].scripts["paddle"]
    with tempfile.TemporaryDirectory(prefix="ppo-step-") as name:
        folder = Path(name)
        prepare(folder, work)
        found = measure_savings(
            work, lambda: open_side(script, folder, threads=threads, extra={}), folder, steps=options.steps
        )
    print_savings(case, found)
    return {"case": case, "model": model, "threads": threads, "rows": found}


if __name__ == "__main__":
    sys.exit(main())
