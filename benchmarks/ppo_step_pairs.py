"""What both sides of ``ppo_step.py`` do with pairs of answers: one update of DPO or of a reward model."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ppo_step_work import MODELS, WORK_FILE, log_normal_lengths

OBJECTIVES = ("dpo", "rm")
START = {"dpo": "policy", "rm": "reward"}
"""Objective to the folder of the weights that are trained."""
PHASES = ("step",)


class Pair(NamedTuple):
    """A prompt with a better and a worse answer."""

    prompt: np.ndarray
    better: np.ndarray
    worse: np.ndarray


@dataclass(frozen=True, kw_only=True)
class PairWork:
    """One update; written into the folder that holds the weights."""

    model: str
    """A key of ``ppo_step_work.MODELS``."""
    objective: str
    """One of ``OBJECTIVES``."""
    threads: int
    num_pairs: int = 64
    prompt_length: int = 256
    answer_length: int = 96
    """The median; lengths are log-normal, the same in every step."""
    longest_answer: int = 512
    pairs_per_batch: int = 4
    """Pairs of a peer's micro-batch, and of ours without a token budget."""
    beta: float = 0.1
    learning_rate: float = 1e-4
    max_grad_norm: float = 1.0
    overrides: dict[str, Any] = field(default_factory=dict)
    """Arguments of this package's run that a table of savings changes."""
    peer_batches: int = 0
    """Micro-batches that torch measures, see ``ppo_step_part``; 0: all."""
    seed: int = 20261130

    @classmethod
    def read(cls, folder: Path) -> PairWork:
        """Read what ``write`` wrote."""
        return cls(**json.loads((folder / WORK_FILE).read_text(encoding="utf-8")))

    def write(self, folder: Path) -> None:
        """Write this into ``folder``."""
        (folder / WORK_FILE).write_text(json.dumps(asdict(self)), encoding="utf-8")

    @property
    def answer_lengths(self) -> np.ndarray:
        """Tokens [pairs, 2] of the better and the worse answers."""
        lengths = log_normal_lengths(2 * self.num_pairs, self.answer_length, self.longest_answer, seed=self.seed)
        return lengths.reshape(-1, 2)

    def pairs(self, step: int) -> list[Pair]:
        """Return the pairs of step number ``step``."""
        drawn, vocab = np.random.default_rng([self.seed, step]), MODELS[self.model]["vocab_size"]
        sizes = [(self.prompt_length, *lengths) for lengths in self.answer_lengths.tolist()]
        return [Pair(*(drawn.integers(3, vocab, size) for size in row)) for row in sizes]
