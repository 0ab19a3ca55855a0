"""One side of ``rollout.py``: answers one JSON line on standard output for each on standard input."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np


def read_work(folder: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return (the configuration in Hugging Face keys, the weights by name, matrices as [in, out])."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    with np.load(folder / "weights.npz") as stored:
        return config, {name: stored[name] for name in stored.files}


def serve(description: Mapping[str, str], generate: Callable[[np.ndarray, int], np.ndarray]) -> None:
    """Answer commands; ``generate`` continues prompts [B, P] greedily by a number of tokens, never stopping early."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # libraries that print do not disturb the answers
    for answer in chain([description], _answers(generate)):
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _answers(generate: Callable[[np.ndarray, int], np.ndarray]) -> Iterator[dict[str, Any]]:
    for line in sys.stdin:
        command = json.loads(line)
        prompts = np.random.default_rng(command["seed"]).integers(3, command["vocab"], command["shape"])
        wall, cpu = time.perf_counter(), time.process_time()
        tokens = generate(prompts, command["new_tokens"])
        yield {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "tokens": tokens.tolist()}
