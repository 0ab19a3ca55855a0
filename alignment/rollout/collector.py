"""Prompts to completions: who generates, with which options and random numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from alignment.generation.engine import Engine, GenerationOptions
from alignment.records import Rollout


class Collector:
    """Samples ``num_return_sequences`` responses a prompt; samples of a prompt are adjacent rows.

    Random numbers are addressed by (seed, sequence, position), where sequences are counted over the whole run, so the
    sampled tokens depend neither on batching nor on when the run was interrupted.
    """

    def __init__(self, engine: Engine, options: GenerationOptions, *, num_return_sequences: int, seed: int) -> None:
        self.options = options
        self.num_sequences = 0
        self._engine = engine
        self._samples = num_return_sequences
        self._seed = seed

    def collect(self, prompts: Sequence[Mapping[str, Any]], *, policy_version: int) -> Rollout:
        """Return the rollout of ``prompts`` (samples of a PromptOnlyDataset) under the engine's weights."""
        rows = [sample for sample in prompts for _ in range(self._samples)]
        ids = [np.asarray(sample["input_ids"], np.int64) for sample in rows]
        sequence_ids = range(self.num_sequences, self.num_sequences + len(rows))
        completions = self._engine.generate(ids, self.options, seed=self._seed, sequence_ids=sequence_ids)
        self.num_sequences += len(rows)
        width = max(len(c.token_ids) for c in completions)
        logprobs = np.zeros((len(rows), width), np.float32)
        for row, completion in zip(logprobs, completions, strict=True):
            row[: len(completion.logprobs)] = completion.logprobs
        return Rollout(
            prompts=tuple(ids),
            responses=tuple(c.token_ids for c in completions),
            finish_reasons=tuple(c.finish_reason for c in completions),
            group_ids=np.repeat(np.arange(len(prompts)), self._samples),
            inputs=tuple(sample["raw_input"] for sample in rows),
            labels=tuple(sample.get("label") for sample in rows),
            rollout_logprobs=logprobs,
            policy_version=policy_version,
        )
