"""Predict the memory of a run: ``alignment plan ppo_argument.json --gpus 64 --memory_gib 80``.

Prints what each phase needs in the fullest process for the file's layout, and the layouts and rollout modes that fit,
those with the shortest iteration first; with ``placement`` what every rank needs, and which ranks wait for which. Only
the models' config.json is read, no weights. ``--check`` runs two iterations on random weights of the same shapes in
processes on this machine and compares.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path

from alignment.architecture.layout import Layout
from alignment.arguments.command_line import ToolParser, number
from alignment.arguments.files import read_file
from alignment.arguments.global_batches import share_global_batches
from alignment.arguments.parsed import Parsed
from alignment.arguments.peers.presets import describe as describe_preset
from alignment.arguments.sources import read_command_line
from alignment.device.host import prepare_host
from alignment.errors import ArgumentError
from alignment.planner.counts.shapes import model_elements
from alignment.planner.engines import rollout_engine
from alignment.planner.job import Job
from alignment.planner.machine import GIB, PROCESSORS, Machine
from alignment.planner.memory import ALWAYS_SHOWN, CACHE, OFFLOADED
from alignment.planner.on_policy_job import read_job
from alignment.planner.placed.phases import plan_turns
from alignment.planner.placed.ranks import Seats, placement_problems, plan_ranks
from alignment.planner.placed.tables import describe_way, fullest, judge, print_ranks, print_turns
from alignment.planner.placed.ways import find_way
from alignment.planner.search import Candidate, evaluate, layout_problems, search
from alignment.planner.tables import EXPLANATION, digits, gib, print_phases
from alignment.runs.degrees import describe_roles, resolve_layout, resolve_roles
from alignment.telemetry.tables import print_table
from alignment.telemetry.wording import counted
from alignment.trainers.recognise import recognise_trainer
from alignment.trainers.registered import TRAINERS
from alignment.trainers.trainer import Trainer

MOST_DEVICES = 2**17
_MANY = 1e8
"""Parameters of a model that are counted in billions."""


def main(argv: Sequence[str]) -> int:
    """Print the plan; return 0 if the file's layout fits (with ``--check``: if the prediction was right), else 1."""
    prepare_host()
    return _plan(*_parse(argv))


def _parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = ToolParser(
        prog="alignment plan",
        description=__doc__,
        epilog="Other --key value pairs override keys of the file, as for the trainer.",
    )
    count, size = number(int, minimum=1, maximum=MOST_DEVICES), number(float, above=0, maximum=1e6)
    parser.add_argument("arguments", help="argument file of a trainer, such as ppo_argument.json")
    parser.add_argument(
        "--trainer", choices=list(TRAINERS), help="the file's trainer (default: inferred from its keys)"
    )
    parser.add_argument("--gpus", type=count, required=True, help="number of processes, one per device")
    parser.add_argument("--memory_gib", type=size, required=True, help="memory of each device in GiB (2**30 bytes)")
    names = [name for name in PROCESSORS if name != "cpu"]
    parser.add_argument("--gpu_name", choices=names, default="h100", help="GPU whose data sheet to use (default h100)")
    parser.add_argument("--tflops", type=size, help="TFLOP/s of matrix products (default: 40 %% of the data sheet)")
    parser.add_argument("--network_gib", type=size, default=40, help="GiB/s between nodes, per device (default 40)")
    parser.add_argument("--per_node", type=count, default=8, help="devices per node (default 8)")
    parser.add_argument("--best", type=count, default=10, help="number of layouts to list (default 10)")
    parser.add_argument("--on", choices=("gpu", "cpu"), default="gpu", help="device to plan for (default gpu)")
    parser.add_argument(
        "--prompt_tokens", type=count, help="offline: tokens of every prompt, which the answers to it share (default 1)"
    )
    parser.add_argument("--check", action="store_true", help="run two iterations here and compare with the prediction")
    options, rest = parser.parse_known_args(argv)
    return options, rest


def _plan(options: argparse.Namespace, rest: Sequence[str]) -> int:
    trainer = TRAINERS[options.trainer or _recognise(options.arguments, rest)]
    parsed = trainer.parse([options.arguments, *rest])
    if told := describe_preset(parsed):
        print(f"{told}\n")
    if seats := resolve_roles(parsed, world_size=options.gpus):
        return _plan_placement(trainer, parsed, seats, options)
    layout, problem = _layout_of_file(parsed, options.gpus)
    parsed = share_global_batches(parsed, batch_ranks=layout.batch)
    job = _job_of(trainer, parsed, options, device=options.on)
    _print_models(job)
    # Degrees that the model does not divide by are named first: no number of devices makes them work.
    problem = "; ".join(layout_problems(job, layout if not problem else _undivided(parsed))) or problem
    machine, limit = _machine_of(options), int(options.memory_gib * GIB)
    always = (*map(job.weights_of, job.models), *ALWAYS_SHOWN, *([CACHE] if job.generates else []))
    fits = not problem and _judge(evaluate(job, layout, machine), machine, options, always)
    if problem:
        print(f"the layout asked for does not work on {options.gpus} devices: {problem}\n")
    found = search(job, processes=options.gpus, limit=limit, machine=machine, like=layout, most=options.best)
    if found:
        _print_layouts(found, machine, options)
    else:
        _print_what_helps(job, options)
    if options.check and not problem:
        from alignment.planner.check import check_memory

        return check_memory(parsed, _job_of(trainer, parsed, options, device="cpu"), layout)
    return 0 if fits else 1


def _plan_placement(trainer: Trainer, parsed: Parsed, seats: Seats, options: argparse.Namespace) -> int:
    """Do the same for a run whose roles have ranks of their own."""
    parsed = share_global_batches(parsed, batch_ranks=seats["policy"][1].batch)
    job = _job_of(trainer, parsed, options, device=options.on)
    _print_models(job)
    print(f"{describe_roles(seats)}\n")
    if problems := placement_problems(job, seats):
        print(f"the placement does not work: {'; '.join(problems)}")
        return 1
    machine, limit = _machine_of(options), int(options.memory_gib * GIB)
    ranks = plan_ranks(job, seats, machine)
    print_ranks(job, ranks, machine)
    print_turns(plan_turns(job, seats, ranks, machine, target_kl=parsed.algorithm.target_kl))
    print(judge(ranks, machine, limit=limit))
    full = fullest(ranks, machine)
    fits = full.peak(machine.measure) <= limit
    if not fits:
        print(describe_way(find_way(job, parsed, full, machine, limit=limit)))
    if options.check:
        from alignment.planner.check import check_memory

        return check_memory(parsed, _job_of(trainer, parsed, options, device="cpu"), seats)
    return 0 if fits else 1


def _machine_of(options: argparse.Namespace) -> Machine:
    name = "cpu" if options.on == "cpu" else options.gpu_name
    return Machine(
        name=name,
        flops=options.tflops * 1e12 if options.tflops else PROCESSORS[name].flops,
        network_bytes=options.network_gib * GIB,
        processes_per_node=options.per_node,
        measure=attrgetter("everywhere" if options.on == "cpu" else "on_device"),
    )


def _recognise(file: str, rest: Sequence[str]) -> str:
    sources = read_file(Path(file)), read_command_line(rest)
    problems = [problem for source in sources for problem in source.problems]
    if problems:
        raise ArgumentError("; ".join(problems))
    return recognise_trainer([item.key for source in sources for item in source.given], Path(file))


def _job_of(trainer: Trainer, parsed: Parsed, options: argparse.Namespace, *, device: str) -> Job:
    prompt, length = options.prompt_tokens, parsed.data.max_length
    if trainer.is_on_policy:
        if prompt is not None:
            raise ArgumentError(
                f"--prompt_tokens={prompt}: prompts of {trainer.name} have max_length - max_dec_len tokens"
            )
        return read_job(parsed, device=device)
    if prompt is not None and prompt >= length:
        raise ArgumentError(f"--prompt_tokens={prompt} leaves no answer (allowed: 1 to max_length - 1 = {length - 1})")
    from alignment.planner.offline_job import read_offline_job  # offline objectives import Paddle

    return read_offline_job(trainer.name, parsed, device=device, prompt=prompt or 1)


def _layout_of_file(parsed: Parsed, processes: int) -> tuple[Layout, str]:
    """Return (layout, problem or ""); with a problem, a layout that processes as many rows at a time."""
    try:
        return resolve_layout(parsed.parallel, world_size=processes), ""
    except ArgumentError as error:
        return Layout(data=max(1, processes // _undivided(parsed).world_size)), str(error)


def _undivided(parsed: Parsed) -> Layout:
    """Return the smallest layout with the tensor and pipeline degrees asked for."""
    degrees = parsed.parallel
    return Layout(tensor=max(1, degrees.tensor_parallel_degree), pipeline=max(1, degrees.pipeline_degree))


def _print_models(job: Job) -> None:
    counts = {
        name: model_elements(config, "causal" if job.is_language_model(name) else "score")
        for name, config in job.models.items()
    }
    unit, size = ("billion", 1e9) if max(counts.values()) >= _MANY else ("million", 1e6)
    rows = [
        [
            name,
            digits(counts[name] / size, 3),
            config.num_hidden_layers,
            config.hidden_size,
            "trained" if name in job.trained else "frozen",
        ]
        for name, config in job.models.items()
    ]
    kind = "bfloat16, masters in float32" if job.half else "float32"
    print_table(f"models ({kind})", ["model", f"{unit} parameters", "layers", "hidden", "state"], rows)
    batches = f"{counted(job.micro_batches, 'micro-batch')} of {job.rows_per_batch}"
    if job.is_on_policy:
        work = (
            f"{job.iteration_rows} responses per iteration, {batches} per update, at most {job.length} tokens "
            f"({job.response} of them response)"
        )
    else:
        work = f"{batches} rows per update of {TRAINERS[job.trainer].label}, at most {job.length} tokens"
    print(f"in each process with rows of its own: {work}; all sequences are counted at full length\n")


def _judge(chosen: Candidate, machine: Machine, options: argparse.Namespace, always: Sequence[str]) -> bool:
    """Print what the layout of the file needs; return whether it fits."""
    print_phases(f"GiB in the fullest process of {chosen.layout}", chosen.memory, chosen.base, options.on, always)
    print(EXPLANATION)
    needed, limit = chosen.peak, int(options.memory_gib * GIB)
    worst = max(chosen.memory, key=lambda phase: machine.measure(chosen.memory[phase]))
    verdict = "fits" if needed <= limit else "DOES NOT FIT"
    print(
        f"{chosen.layout} on {options.gpus} devices of {options.memory_gib:g} GiB {verdict}: the {worst} phase needs "
        f"{gib(needed)} GiB, {gib(abs(limit - needed))} GiB {'are left' if needed <= limit else 'too many'}"
    )
    pinned = max(moment.host.get(OFFLOADED, 0) for moment in chosen.memory.values())
    if pinned and options.on == "gpu":
        node = min(options.gpus, options.per_node)
        print(
            f"offload_level: {gib(pinned)} GiB of pinned host memory a process, {gib(node * pinned)} GiB for the "
            f"{node} of a node; limits on locked memory (ulimit -l, of a container) have to allow it"
        )
    print(f"an iteration takes about {_describe(chosen, machine)}\n")
    return needed <= limit


def _describe(candidate: Candidate, machine: Machine) -> str:
    rollout, score, update = candidate.duration
    where = f"on {machine.name.upper()}" if machine.device == "gpu" else "in processes of a CPU"
    if not candidate.job.is_on_policy:
        return f"{candidate.duration.total:.3g} s {where}"
    engine = rollout_engine(candidate.job, candidate.job.rollout_layout(candidate.layout)) + " engine"
    if engine.startswith("fused") and machine.device == "gpu":
        engine += ", which needs the CUDA kernels: see alignment doctor"
    return (
        f"{candidate.duration.total:.3g} s {where}: {rollout:.3g} s of rollout ({engine}), {score:.3g} s of "
        f"scoring, {update:.3g} s of updates"
    )


def _print_what_helps(job: Job, options: argparse.Namespace) -> None:
    ways = {
        'offload_level "freeze_model optimizer train_model"': not {"optimizer", "train_model"} <= job.offloaded,
        "recompute": not job.recompute,
        f"a smaller {_batch_key(job)}": job.rows_per_batch > 1,
        "a smaller max_length": True,
        "a smaller per_device_rollout_batch_size (if the cache of keys and values is large)": job.is_on_policy,
    }
    print(
        f"no layout of {options.gpus} devices fits in {options.memory_gib:g} GiB. What helps: "
        f"{', '.join(['more devices', *(way for way, is_open in ways.items() if is_open)])}"
    )


def _batch_key(job: Job) -> str:
    """Return the key that bounds a micro-batch."""
    return "per_device_train_batch_size" if job.max_tokens is None else "max_tokens_per_batch"


def _print_layouts(found: Sequence[Candidate], machine: Machine, options: argparse.Namespace) -> None:
    phases = ("rollout", "score", "update") if found[0].job.generates else ()
    rows = [
        [
            str(c.layout),
            *([_rollout_name(c)] if phases else []),
            f"{c.job.rows_per_batch} x {c.job.micro_batches}",
            f"{c.duration.total:.3g}",
            *(f"{getattr(c.duration, phase):.3g}" for phase in phases),
            gib(c.peak),
            f"{100 * c.idle:.0f} %",
            "/".join(gib(c.sent[axis]) for axis in ("tensor", "pipeline", "batch")),
        ]
        for c in found
    ]
    where = ["rollouts"] if phases else []
    columns = ["layout", *where, "rows", "seconds", *phases, "GiB", "idle", "GiB sent"]
    print_table(f"the {len(rows)} quickest ways that fit", columns, rows)
    split = (
        "rollouts: as trained (eval_mode empty), single, or the degree of eval_mode tensor_parallel; " if phases else ""
    )
    print(
        f"all do the work of the file's layout. {split}rows: per_device_train_batch_size x "
        "gradient_accumulation_steps that do it; seconds: estimate of an iteration (not measured), at "
        f"{machine.flops / 1e12:g} TFLOP/s and {options.network_gib:g} GiB/s between nodes; idle: share of an update "
        "in which a stage waits; sent: by one process in an update, along tensor, pipeline and batch (sharding x data) "
        "parallelism\n"
    )


def _rollout_name(candidate: Candidate) -> str:
    job = candidate.job
    if job.eval_mode == "tensor_parallel":
        return f"TP{job.rollout_layout(candidate.layout).tensor}"
    return job.eval_mode or "as trained"
