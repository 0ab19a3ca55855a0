"""Run a loop: every step that is not done, in order, over as many starts as it takes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from alignment.errors import UserError
from alignment.parallel.comms.group import Group
from alignment.rounds.digests import Digests
from alignment.rounds.estimate import Times
from alignment.rounds.figures import write_loop_report
from alignment.rounds.loop_state import LoopState, MadeFrom
from alignment.rounds.plan import Planner
from alignment.rounds.processes.children import Children, end_leftover
from alignment.rounds.prompts import Row, count_shared, read_prompts
from alignment.rounds.reading.recipe import LoopRecipe
from alignment.rounds.steps import LoopStep
from alignment.runs.output_lock import hold_output
from alignment.telemetry import log
from alignment.telemetry.files import readable_disk_errors, remove_parts
from alignment.telemetry.progress import format_seconds
from alignment.telemetry.wording import counted

DIGESTS_FILE = "digests.json"


def run_loop(recipe: LoopRecipe) -> Path:
    """Make all rounds of ``recipe`` and return the path of the report.

    A step is done again if anything that it was made from has changed, or what it made; the log says what.
    """
    folder = Path(recipe.loop.output_dir)
    prompts, held_out = _read(recipe)
    children = Children(folder)
    with _held(folder), contextlib.closing(children):
        end_leftover(folder)
        remove_parts(folder)
        steps = Planner(recipe, prompts, held_out, children).steps()
        state, digests, times = LoopState(folder), Digests(folder / DIGESTS_FILE), Times(folder)
        state.set_plan([step.name for step in steps])
        for number, step in enumerate(steps):
            if _do(step, state, digests, times):
                digests.save()
                left = times.left(later.stage for later in steps[number + 1 :])
                log.info(f"step {number + 1} of {len(steps)} done; {left}")
            if step.stage == "judge":
                write_loop_report(folder, step.round_number, _settings(recipe))
        report = write_loop_report(folder, recipe.loop.rounds, _settings(recipe))
    log.info(f"{counted(recipe.loop.rounds, 'round')} done: {report}")
    return report


def _do(step: LoopStep, state: LoopState, digests: Digests, times: Times) -> bool:
    """Do ``step`` unless it is done; return whether it was done now."""
    inputs = {label: digests.of(path) for label, path in step.inputs.items()}
    made_from = MadeFrom(step.keys, {**inputs, **step.digests})
    gone = [str(step.inputs[label]) for label, digest in inputs.items() if digest is None]
    if gone:
        raise UserError(f"{step.name}: {', '.join(gone)} is not there")
    why = state.why_again(step.name, made_from, _outputs(step, digests))
    if why is None:
        return False
    continues = state.begin(step.name, made_from)
    log.info(f"{step.name}" + (f" is done again: {why}" if why else ", continued" if continues else ""))
    start = time.monotonic()
    step.work(continues)
    outputs = _outputs(step, digests)
    missing = [label for label, digest in outputs.items() if digest is None]
    if missing:
        raise UserError(f"{step.name} ended without {', '.join(missing)}")
    state.finish(step.name, made_from, outputs)
    seconds = time.monotonic() - start
    times.add(step.name, step.stage, seconds)
    log.info(f"{step.name} took {format_seconds(seconds)}")
    return True


def _outputs(step: LoopStep, digests: Digests) -> Mapping[str, str | None]:
    return {label: digests.of(path) for label, path in step.outputs.items()}


def _read(recipe: LoopRecipe) -> tuple[Sequence[Row], Sequence[Row]]:
    """Return the prompts of the rounds and the held-out ones; warn where they are the same."""
    loop, evaluation = recipe.loop, recipe.evaluate
    prompts: Sequence[Row] = []
    if recipe.prompts.prompts is not None:
        prompts = read_prompts(recipe.prompts, base_dir=recipe.base_dir, seed=loop.seed)
        used = min(len(prompts), loop.rounds * (loop.rollout_batch_size or len(prompts)))
        if used < len(prompts):
            log.warn(
                f"{len(prompts) - used} of {counted(len(prompts), 'prompt')} belong to no round: rounds={loop.rounds} "
                f"with rollout_batch_size={loop.rollout_batch_size} use the first {used}"
            )
    if evaluation is None:
        log.warn("no evaluate: nothing will tell whether the rounds help (give held-out prompts and a judge)")
        return prompts, []
    held_out = read_prompts(evaluation.prompts, base_dir=recipe.base_dir, seed=loop.seed)
    if shared := count_shared(held_out, prompts):
        log.warn(f"evaluate: {shared} of {counted(len(held_out), 'held-out prompt')} are also trained on")
    return prompts, held_out


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Create the folder and hold its lock, so that two loops never mix their files."""
    with readable_disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with hold_output(folder, Group("world")) as note:
        log.configure(output_dir=folder, is_main=True)
        if note is not None:
            log.info(note)
        yield


def _settings(recipe: LoopRecipe) -> dict[str, Any]:
    """Return the keys of the loop and of its stages for the report, with their origins."""
    stages = {"generate": recipe.generate, "score": recipe.score, "select": recipe.select, "train": recipe.train.keys}
    loop = recipe.loop
    found = {
        key: {"value": getattr(loop, key), "origin": "loop"} for key in ("rounds", "train_from", "reference", "critic")
    }
    found["trainer"] = {"value": recipe.train.trainer.name, "origin": "file"}
    for stage, keys in stages.items():
        if keys is not None:
            made_from = keys.made_from()[0]
            origins = keys.parsed.origins
            found |= {f"{stage}.{key}": {"value": value, "origin": origins[key]} for key, value in made_from.items()}
    return found
