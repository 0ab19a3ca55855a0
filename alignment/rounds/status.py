"""Tell how far a loop is: ``alignment loop status FOLDER``."""

from __future__ import annotations

from pathlib import Path

from alignment.errors import ArgumentError
from alignment.rounds.estimate import Times
from alignment.rounds.figures import round_figures
from alignment.rounds.loop_state import STATE_FILE, LoopState
from alignment.rounds.processes.children import find_running
from alignment.telemetry.tables import print_table


def print_status(folder: Path) -> None:
    """Print a row for each round: its steps and its held-out figures, and what comes next."""
    if not (folder / STATE_FILE).is_file():
        raise ArgumentError(f"{folder} is not the folder of a loop: it has no {STATE_FILE}")
    state, running = LoopState(folder), find_running(folder)
    rounds: dict[int, list[str]] = {}
    for name in state.plan:
        rounds.setdefault(int(name.partition("/")[0].removeprefix("round-")), []).append(name)
    figures = {number: round_figures(folder / f"round-{number}") for number in rounds}
    shown = sorted({name for found in figures.values() for name in found if name.startswith("eval/")})
    rows = [
        [number, _describe(state, names, running.step if running else None), *(figures[number].get(n) for n in shown)]
        for number, names in rounds.items()
    ]
    print_table(str(folder), ["round", "steps", *(name.removeprefix("eval/") for name in shown)], rows)
    left = [name for name in state.plan if name not in state.done]
    if not left:
        print(f"all {len(state.plan)} steps are done: {folder / 'report.html'}")
        return
    what = f"{running.step} is running (process {running.pid})" if running else "no stage is running"
    time_left = Times(folder).left(name.partition("/")[2] for name in left)
    print(
        f"{len(state.plan) - len(left)} of {len(state.plan)} steps are done, the next is {left[0]}; {what}; {time_left}"
    )


def _describe(state: LoopState, names: list[str], running: str | None) -> str:
    done = sum(name in state.done for name in names)
    now = next((name.partition("/")[2] for name in names if name == running), None)
    return f"{done} of {len(names)}" + (f", now {now}" if now else "")
