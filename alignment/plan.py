"""Memory of a PPO run before it is started: ``python -m alignment.plan ppo_argument.json --gpus 64 --memory_gib 80``.

Prints what each phase needs in one process for the layout of the file, and the layouts that fit, quickest first. No
weight is loaded. ``--check`` runs one iteration on random weights of the same shapes here and compares.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence

from alignment.errors import ArgumentError, UserError
from alignment.loops.layout import resolve_layout
from alignment.models.split_plan import check_degrees
from alignment.planner.job import Job, read_job
from alignment.planner.memory import PHASES
from alignment.planner.search import Candidate, Machine, evaluate, search
from alignment.ppo.arguments import parse_ppo_arguments
from alignment.telemetry.tables import print_table

GIB = 2**30
PROCESS_GIB = {"gpu": 1.5, "cpu": 0.4}
"""What a process holds before any model: libraries, device context, buffers of messages. An estimate."""


def main(argv: Sequence[str]) -> int:
    """Print the plan; return 0 when the layout of the file fits, 1 when not, 2 when there is nothing to plan."""
    options, rest = _parse(argv)
    try:
        return _plan(options, rest)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog="python -m alignment.plan",
        description=__doc__,
        epilog="Other --key value pairs override keys of the file, as for the trainer.",
    )
    parser.add_argument("arguments", help="a ppo_argument.json")
    parser.add_argument("--gpus", type=int, required=True, help="processes, one a device")
    parser.add_argument("--memory_gib", type=float, required=True, help="memory of each device")
    parser.add_argument("--tflops", type=float, default=400, help="sustained TFLOP/s of a device (default 400)")
    parser.add_argument("--network_gib", type=float, default=40, help="GiB/s between nodes, per device (default 40)")
    parser.add_argument("--per_node", type=int, default=8, help="devices of a node (default 8)")
    parser.add_argument("--best", type=int, default=10, help="layouts to list (default 10)")
    parser.add_argument("--on", choices=("gpu", "cpu"), default="gpu", help="the device planned for (default gpu)")
    parser.add_argument("--check", action="store_true", help="run one iteration here and compare with the prediction")
    return parser.parse_known_args(argv)


def _plan(options: argparse.Namespace, rest: Sequence[str]) -> int:
    parsed = parse_ppo_arguments([options.arguments, *rest])
    job = read_job(parsed, device=options.on)
    layout = resolve_layout(parsed.parallel, world_size=options.gpus)
    problems = [problem for config in (job.policy, job.critic) for problem in check_degrees(config, layout)]
    if problems:
        raise ArgumentError("; ".join(dict.fromkeys(problems)))
    machine = Machine(
        flops=options.tflops * 1e12, network_bytes=options.network_gib * GIB, processes_per_node=options.per_node
    )
    base = int(PROCESS_GIB[options.on] * GIB)
    limit = int(options.memory_gib * GIB)
    chosen = evaluate(job, layout, machine)
    _print_phases(chosen, base)
    fits = chosen.peak + base <= limit
    print(f"{layout} on {options.gpus} devices of {options.memory_gib:g} GiB: {'fits' if fits else 'DOES NOT FIT'}")
    found = search(job, processes=options.gpus, limit=limit - base, machine=machine, like=layout)
    _print_layouts(found[: options.best], len(found), base, options)
    if options.check:
        from alignment.planner.check import check_memory

        return check_memory(parsed, _for_this_machine(job), layout)
    return 0 if fits else 1


def _for_this_machine(job: Job) -> Job:
    return dataclasses.replace(job, half=False)


def _print_phases(candidate: Candidate, base: int) -> None:
    names = list(dict.fromkeys(name for phase in PHASES for name in candidate.memory[phase]))
    rows = [[name, *(_gib(candidate.memory[phase].get(name, 0)) for phase in PHASES)] for name in names]
    rows.append(["process", *[_gib(base)] * len(PHASES)])
    rows.append(["total", *(_gib(sum(candidate.memory[phase].values()) + base) for phase in PHASES)])
    print_table(f"GiB of the fullest process: {candidate.layout}", ["what", *PHASES], rows)


def _print_layouts(found: Sequence[Candidate], total: int, base: int, options: argparse.Namespace) -> None:
    if not found:
        print(f"no layout of {options.gpus} devices fits in {options.memory_gib:g} GiB; more devices, offload_level")
        print('("freeze_model optimizer"), recompute, a smaller max_length or micro-batch would help')
        return
    rows = [
        [
            str(c.layout),
            _gib(c.peak + base),
            _gib(options.memory_gib * GIB - c.peak - base),
            f"{100 * c.idle:.0f} %",
            *(_gib(c.sent[axis]) for axis in ("tensor", "pipeline", "batch")),
            f"{c.seconds:.3g}",
        ]
        for c in found
    ]
    columns = ["layout", "peak", "free", "idle", "tensor sends", "pipeline", "batch", "seconds an update"]
    print_table(f"{total} layouts fit; the quickest (GiB; estimated seconds)", columns, rows)


def _gib(size: float) -> str:
    return f"{size / GIB:.2f}" if size < 100 * GIB else f"{size / GIB:.0f}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
