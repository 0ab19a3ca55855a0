"""The process of one side of ``ppo_step.py``: commands on standard input, answers on standard output.

One JSON object a line. ``{"check": true, "variant": "..."}`` runs a step on fixed tokens (which also warms up) and
answers with the numbers to compare; ``{"step": 3, "variant": "..."}`` runs step number 3 and answers
``{phase: [wall, CPU seconds]}``.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np


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
        """Return what ``score`` measured by name, as arrays."""
        ...

    def update(self, scored: Any) -> dict[str, float]:
        """Update critic and policy once; return the gradient norms by name."""
        ...


def serve(build: Callable[[], Side]) -> None:
    """Answer commands until the input ends; only answers reach standard output."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    side = build()
    _answer(answers, side.describe())
    for line in sys.stdin:
        command = json.loads(line)
        side.use_variant(command["variant"])
        _answer(answers, check(side) if "check" in command else run_step(side, command["step"]))


def check(side: Side) -> dict[str, Any]:
    """Return measurements and gradient norms on the fixed tokens, after one sampled rollout that is thrown away."""
    side.rollout(0)
    scored = side.score(side.fixed_rollout())
    numbers = {name: value.tolist() for name, value in side.measured(scored).items()}
    return numbers | side.update(scored)


def run_step(side: Side, step: int) -> dict[str, tuple[float, float]]:
    """Return wall and CPU seconds of each phase."""
    seconds: dict[str, tuple[float, float]] = {}
    with _timed(seconds, "rollout"):
        rollout = side.rollout(step)
    with _timed(seconds, "scoring"):
        scored = side.score(rollout)
    with _timed(seconds, "update"):
        side.update(scored)
    return seconds


@contextmanager
def _timed(seconds: dict[str, tuple[float, float]], phase: str):
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    seconds[phase] = (time.perf_counter() - wall, time.process_time() - cpu)


def _answer(answers, content: dict[str, Any]) -> None:
    answers.write(json.dumps(content) + "\n")
    answers.flush()
