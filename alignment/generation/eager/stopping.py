"""Collect answers, and decide which are finished."""

from __future__ import annotations

import numpy as np

from alignment.generation.engine import GenerationOptions
from alignment.records import Completion


class Answers:
    """The answers of N rows, B of which are in flight."""

    def __init__(self, limits: np.ndarray, options: GenerationOptions) -> None:
        """``limits`` [N] are the largest numbers of tokens of the answers."""
        num_rows, width = len(limits), int(limits.max())
        self.step = 0
        """Number of tokens of every unfinished answer."""
        self.open = np.ones(num_rows, bool)
        """[B], True for rows in flight that are unfinished."""
        self._stops = np.array(options.stop_token_ids, np.int64)
        self._limits = limits
        self.rows = np.arange(num_rows)
        """[B], the numbers of the rows in flight."""
        self._tokens = np.zeros((num_rows, width), np.int64)
        self._logprobs = np.zeros((num_rows, width), np.float32)
        self._lengths = np.zeros(num_rows, np.int64)
        self._stopped = np.zeros(num_rows, bool)

    @property
    def done(self) -> bool:
        """Whether every row in flight has finished."""
        return not self.open.any()

    def add(self, tokens: np.ndarray, logprobs: np.ndarray) -> None:
        """Append ``tokens`` [B] and their log-probs to the open rows, and close rows that end here."""
        rows = self.rows[self.open]
        self._tokens[rows, self.step] = tokens[self.open]
        self._logprobs[rows, self.step] = logprobs[self.open]
        self.step += 1
        self._lengths[rows] = self.step
        stopped = np.isin(tokens, self._stops)
        self._stopped[rows] = stopped[self.open]
        self.open &= ~stopped & (self.step < self._limits[self.rows])

    def keep(self, rows: np.ndarray) -> None:
        """Drop all other rows in flight."""
        self.rows = self.rows[rows]
        self.open = self.open[rows]

    def completions(self) -> list[Completion]:
        """Return all N answers in order."""
        parts = zip(self._tokens, self._logprobs, self._lengths, self._stopped, strict=True)
        return [
            Completion(tokens[:length], logprobs[:length], "stop" if stopped else "length")
            for tokens, logprobs, length, stopped in parts
        ]
