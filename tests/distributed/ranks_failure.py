"""Ranks of which one dies, fails, sleeps or holds other data, each left alone; run as a script by ``test_failure.py``.

``python ranks_failure.py SCENARIO VICTIM FOLDER`` writes into FOLDER ``ends.json`` (status and seconds since the event,
by rank) and what each rank printed (``output-RANK.txt``). Nobody but the rank that was put to sleep is ended from here.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path

from alignment.architecture.layout import Layout
from alignment.parallel.local_ranks import rank_environments
from alignment.runs.entry import run_entry

LAYOUT = Layout(pipeline=2, data=2)
LIMIT_SECONDS = 3.0
_PASSES_BEFORE = 4


def run_rank(scenario: str, is_victim: bool, folder: Path) -> None:
    """Train for ever, until something happens to the victim."""
    from ranks_runner import build_model, policy_task

    from alignment.models.decoder.placement import Placement
    from alignment.parallel.build_runner import build_runner
    from alignment.parallel.initialise import initialise

    topology = initialise(device="cpu", seed=1, layout=LAYOUT)
    model = build_model("causal", Placement.of(topology), tied=False)
    runner = build_runner(model, topology)
    batches, make_objective = policy_task(6)
    runner.forward_backward(batches, make_objective(model))
    if scenario == "asleep":
        topology.link.guard.watch.limit = LIMIT_SECONDS
    if is_victim:
        if scenario == "other data":
            batches = batches[:-1]
            note_event(folder)
        else:
            befall(model.model, scenario, folder)
    while True:
        runner.forward_backward(batches, make_objective(model))


def befall(decoder, scenario: str, folder: Path) -> None:
    """Let this process die, fail or sleep in the middle of a pass over micro-batches."""
    before, passes = decoder.boundary_rows, []

    def boundary_rows(batch):
        passes.append(1)
        if len(passes) == _PASSES_BEFORE:
            note_event(folder)
            if scenario == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if scenario == "faulty":
                raise AssertionError("score.weight came where another was announced")
            time.sleep(3600)
        return before(batch)

    decoder.boundary_rows = boundary_rows


def note_event(folder: Path) -> None:
    """Write down when it happened."""
    (folder / "event").write_text(repr(time.monotonic()))


def main(scenario: str, victim: int, folder: Path) -> None:
    """Fork the ranks and write down how each of them ends."""
    from alignment.device.host import prepare_host

    prepare_host()
    import paddle  # noqa: F401 - before the fork, so that the ranks share it

    environments = rank_environments(LAYOUT.world_size)
    ranks = {fork(scenario, rank == victim, folder, env): rank for rank, env in enumerate(environments)}
    ends = {}
    while ranks:
        pid, status = os.wait()
        ends[ranks.pop(pid)] = (os.waitstatus_to_exitcode(status), time.monotonic())
        if list(ranks.values()) == [victim]:
            os.kill(next(iter(ranks)), signal.SIGKILL)
    event = float((folder / "event").read_text())
    (folder / "ends.json").write_text(json.dumps({rank: (code, at - event) for rank, (code, at) in ends.items()}))


def fork(scenario: str, is_victim: bool, folder: Path, environment: dict[str, str]) -> int:
    """Start one rank that prints into a file of its own."""
    pid = os.fork()
    if pid:
        return pid
    rank = int(environment["PADDLE_TRAINER_ID"])
    output = os.open(folder / f"output-{rank}.txt", os.O_CREAT | os.O_WRONLY)
    os.dup2(output, 1)
    os.dup2(output, 2)
    try:
        if rank:
            time.sleep(0.3)
        os.environ.update(environment)
        run_entry(lambda _: run_rank(scenario, is_victim, folder))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(99)  # run_entry ends the process itself


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
