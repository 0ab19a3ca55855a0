"""The process of one side of ``ppo_step.py``: commands on standard input, answers on standard output.

One JSON object a line. ``{"step": 3, "variant": "..."}`` runs step number 3 and answers ``{"seconds": {phase: [wall,
CPU seconds]}}``. With ``"check": true`` the step is on fixed tokens, and the answer has ``numbers`` to compare; with
``"memory": true`` it has the step's ``peak_bytes``, and freed memory is given back before it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TextIO, runtime_checkable

import numpy as np
from ppo_step_memory import peak_bytes, reset_peak
from ppo_step_part import whole_seconds


class Side(Protocol):
    """A framework's PPO step, phase by phase."""

    def use_variant(self, variant: str) -> None:
        """Choose how the step is written; each side names its own variants."""
        ...

    def describe(self) -> dict[str, str]:
        """Return versions and settings worth writing down."""
        ...

    def rollout(self, step: int) -> Any:
        """Sample a response to each prompt of ``step``."""
        ...

    def fixed_rollout(self) -> Any:
        """Return the work's fixed responses to the prompts of step 0, in the form ``rollout`` returns."""
        ...

    def score(self, rollout: Any) -> Any:
        """Measure log-probs, entropies, values and rewards, and estimate advantages."""
        ...

    def measured(self, scored: Any) -> dict[str, np.ndarray]:
        """Return what ``score``, or the update after it, measured by name: arrays [N], or [tokens of all responses]."""
        ...

    def update(self, scored: Any) -> dict[str, float]:
        """Update critic and policy once; return the gradient norms by name."""
        ...


@runtime_checkable
class OnePhaseSide(Protocol):
    """A framework's step in one piece."""

    def use_variant(self, variant: str) -> None:
        """See ``Side``."""
        ...

    def describe(self) -> dict[str, str]:
        """See ``Side``."""
        ...

    def step(self, number: int) -> dict[str, Any]:
        """Make one update on the rows of ``number``; return the numbers to compare."""
        ...


def serve(build: Callable[[], Side | OnePhaseSide]) -> None:
    """Answer commands until the input ends."""
    answers = take_output()
    side = build()
    answer_with(answers, side.describe())
    for line in sys.stdin:
        command = json.loads(line)
        side.use_variant(command["variant"])
        answer_with(answers, run_command(side, command))


def take_output() -> TextIO:
    """Return standard output, which nothing else reaches from now on."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return answers


def answer_with(answers: TextIO, content: dict[str, Any]) -> None:
    """Send one answer."""
    answers.write(json.dumps(content) + "\n")
    answers.flush()


def run_command(side: Side | OnePhaseSide, command: dict[str, Any]) -> dict[str, Any]:
    """Return the answer to ``command``."""
    if command.get("memory"):
        reset_peak()
    numbers, seconds = None, {}
    if isinstance(side, OnePhaseSide):
        with timed(seconds, "step"):
            numbers = side.step(command["step"])
    elif command.get("check"):
        numbers = check(side, seconds)
    else:
        seconds = run_step(side, command["step"])
    return answer_of(command, whole_seconds(side)(seconds), numbers)


def answer_of(command: dict[str, Any], seconds: dict[str, Any], numbers: dict[str, Any] | None) -> dict[str, Any]:
    """Return what ``command`` asks for of a step."""
    return {
        "seconds": seconds,
        **({"numbers": numbers} if command.get("check") else {}),
        **({"peak_bytes": peak_bytes()} if command.get("memory") else {}),
    }


def check(side: Side, seconds: dict[str, tuple[float, float]]) -> dict[str, Any]:
    """Return measurements and gradient norms on the fixed tokens, after one sampled rollout that is thrown away."""
    with timed(seconds, "rollout"):
        side.rollout(0)
    with timed(seconds, "scoring"):
        scored = side.score(side.fixed_rollout())
    with timed(seconds, "update"):
        norms = side.update(scored)
    return {name: value.tolist() for name, value in side.measured(scored).items()} | norms


def run_step(side: Side, step: int) -> dict[str, tuple[float, float]]:
    """Return wall and CPU seconds of each phase."""
    seconds: dict[str, tuple[float, float]] = {}
    with timed(seconds, "rollout"):
        rollout = side.rollout(step)
    with timed(seconds, "scoring"):
        scored = side.score(rollout)
    with timed(seconds, "update"):
        side.update(scored)
    return seconds


@contextmanager
def timed(seconds: dict[str, tuple[float, float]], phase: str) -> Iterator[None]:
    """Add the wall and CPU seconds of the body."""
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    seconds[phase] = (time.perf_counter() - wall, time.process_time() - cpu)
