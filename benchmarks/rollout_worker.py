"""A process of ``rollout.py``: answers one JSON line on standard output for each on standard input.

A script is started with one argument, the ``Job`` as JSON. Its first line says which versions it runs and which
variants it could not build. Every command names a variant, prompts by a seed and a shape, and lengths of answers.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

Generate = Callable[[np.ndarray, Sequence[int]], Sequence[Sequence[int]]]
"""Prompts [B, P] and the tokens wanted of each row to the greedy tokens of each row; more than wanted are cut off."""


class Job(NamedTuple):
    """What a process is started for."""

    folder: str
    """Where ``rollout_weights.py`` has written."""
    threads: int
    room: int
    """Tokens of the longest prompt and answer together."""
    slots: int
    """Most rows at a time."""
    variants: list[str]

    def read_work(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return (the configuration in Hugging Face keys, the weights by name, matrices as [in, out])."""
        folder = Path(self.folder)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        with np.load(folder / "weights.npz") as stored:
            return config, {name: stored[name] for name in stored.files}


def read_linear(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return ``weights`` with matrices as [out, in], as torch and most formats of weights have them."""
    return {
        name: np.ascontiguousarray(value.T) if value.ndim == 2 and "embed_tokens" not in name else value
        for name, value in weights.items()
    }


def serve(versions: dict[str, str], prepare: Callable[[Job], Callable[[str], Generate]]) -> None:
    """Answer until the input ends; ``prepare`` returns what builds a variant by its name."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # libraries that print do not disturb the answers
    job = Job(**json.loads(sys.argv[1]))
    build, built, failed = prepare(job), {}, {}
    for variant in job.variants:
        try:
            built[variant] = build(variant)
        except Exception as error:  # the others are still worth measuring
            traceback.print_exc()
            failed[variant] = f"{type(error).__name__}: {error}"
    _say(answers, {"versions": versions, "failed": failed})
    for line in sys.stdin:
        _say(answers, _answer(built, job, json.loads(line)))


def _answer(built: dict[str, Generate], job: Job, command: dict[str, Any]) -> dict[str, Any]:
    generate, limits = built[command["variant"]], command["limits"]
    prompts = np.random.default_rng(command["seed"]).integers(3, command["vocab"], command["shape"])
    read = getattr(generate, "bytes_read", None)
    wall, cpu = time.perf_counter(), time.process_time()
    if getattr(generate, "refills", False):
        rows = generate(prompts, limits)
    else:
        batches = [slice(first, first + job.slots) for first in range(0, len(prompts), job.slots)]
        rows = [row for batch in batches for row in generate(prompts[batch], limits[batch])]
    seconds = [time.perf_counter() - wall, time.process_time() - cpu]
    tokens = [[int(token) for token in row[:limit]] for row, limit in zip(rows, limits, strict=True)]
    assert [len(row) for row in tokens] == limits, "an answer is shorter than asked"
    return {"seconds": seconds, "tokens": tokens, "read": read if read is None else generate.bytes_read - read}


def _say(answers: Any, content: dict[str, Any]) -> None:
    answers.write(json.dumps(content) + "\n")
    answers.flush()
