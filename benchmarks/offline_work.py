"""What both sides of ``offline.py`` are asked to do: sizes, rows of token ids, weights. Needs no framework."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

WORK_FILE = "work.json"
OBJECTIVES = ("sft", "rm", "dpo", "kto")
SHAPES = ("equal", "ragged")
WEIGHTS = {"sft": "policy", "dpo": "policy", "kto": "policy", "rm": "reward"}
"""Objective to the folder of the model it starts from."""
IGNORED = -100


@dataclass(frozen=True, kw_only=True)
class Work:
    """One run; written into the folder that holds the weights."""

    model: str
    """A key of ``ppo_step_work.MODELS``."""
    objective: str
    shape: str
    """``equal``: all rows have ``length`` tokens; ``ragged``: log-normal lengths, padded by a peer."""
    threads: int
    steps: int = 20
    rows_per_batch: int = 8
    """Rows of a micro-batch; a pair has two."""
    batches_per_step: int = 4
    length: int = 128
    longest: int = 512
    max_tokens: int = 2048
    """Token budget of a micro-batch, for the variant that packs."""
    vocab_size: int = 1000
    learning_rate: float = 1e-4
    max_grad_norm: float = 1.0
    beta: float = 0.1
    seed: int = 20261129

    @classmethod
    def read(cls, folder: Path) -> Work:
        """Read what ``write`` wrote."""
        return cls(**json.loads((folder / WORK_FILE).read_text(encoding="utf-8")))

    def write(self, folder: Path) -> None:
        """Write this into ``folder``."""
        (folder / WORK_FILE).write_text(json.dumps(asdict(self)), encoding="utf-8")

    @property
    def is_paired(self) -> bool:
        """Whether a sample is a prompt with two answers."""
        return self.objective in ("rm", "dpo")

    @property
    def samples_per_batch(self) -> int:
        """Samples of a micro-batch of fixed size."""
        return self.rows_per_batch // (1 + self.is_paired)

    @property
    def peer_batches(self) -> tuple[int, int]:
        """Samples of a peer's micro-batch, and micro-batches of a step.

        TRL takes the mismatched answers of KTO from the micro-batch, this package from the whole update: a peer's
        update is one micro-batch, so that both are the same.
        """
        samples, batches = self.samples_per_batch, self.batches_per_step
        return (samples * batches, 1) if self.objective == "kto" else (samples, batches)

    def samples(self) -> list[tuple[list[int], list[list[int]]]]:
        """Return (prompt, one or two answers) of every sample, in the order of training."""
        generator = np.random.default_rng([self.seed, SHAPES.index(self.shape)])
        found = []
        for _ in range(self.steps * self.batches_per_step * self.samples_per_batch):
            prompt = self.length // 4
            lengths = [self._answer_length(generator) for _ in range(1 + self.is_paired)]
            ids = [generator.integers(3, self.vocab_size, count).tolist() for count in (prompt, *lengths)]
            found.append((ids[0], [[*answer, 2] for answer in ids[1:]]))
        return found

    def _answer_length(self, generator: np.random.Generator) -> int:
        """Return the tokens of an answer without its end token."""
        room = self.longest - self.length // 4 - 1
        if self.shape == "equal":
            return self.length - self.length // 4 - 1
        return int(np.clip(generator.lognormal(np.log(self.length / 2), 0.9), 4, room))


class StepClock:
    """[Wall, CPU] seconds of each step, by the moments at which steps begin."""

    def __init__(self) -> None:
        self._stamps: list[tuple[float, float]] = []

    def begin(self) -> None:
        """Note that a step begins."""
        self._stamps.append((time.perf_counter(), time.process_time()))

    def seconds(self, steps: int) -> list[list[float]]:
        """Return the seconds of the last ``steps`` steps that another one followed."""
        last = np.diff(np.array(self._stamps[-steps:]), axis=0)
        return last.tolist()
