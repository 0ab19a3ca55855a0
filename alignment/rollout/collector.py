"""Turn prompts into sampled completions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from alignment.generation.engine import Engine, GenerationOptions
from alignment.records import Completion, Rollout


class Collector:
    """Samples ``num_return_sequences`` responses per prompt, in adjacent rows.

    Random numbers are addressed by (seed, sequence, position), with sequences counted over the whole run, so sampled
    tokens depend neither on batching nor on interruptions of the run.
    """

    def __init__(
        self,
        engine: Engine,
        options: GenerationOptions,
        *,
        num_return_sequences: int,
        seed: int,
        rows_per_call: int | None = None,
        records_experts: bool = False,
    ) -> None:
        """``rows_per_call`` is the number of rows per call of the engine (None: all).

        ``records_experts``: rollouts hold the experts that each of their tokens was given to.
        """
        self.options = replace(options, routed_experts=records_experts)
        self.num_sequences = 0
        self._engine = engine
        self._samples = num_return_sequences
        self._seed = seed
        self._rows_per_call = rows_per_call

    def collect(self, prompts: Sequence[Mapping[str, Any]], *, policy_version: int) -> Rollout:
        """Return the rollout of ``prompts`` (samples of a PromptOnlyDataset) with the engine's current weights."""
        first = self.num_sequences
        self.num_sequences += len(prompts) * self._samples
        sequence_ids = range(first, self.num_sequences)
        return self._rollout(prompts, self.options, sequence_ids, policy_version=policy_version)

    def collect_greedy(self, prompts: Sequence[Mapping[str, Any]], *, policy_version: int) -> Rollout:
        """Return one response to each prompt of the likeliest tokens, without a random number of the run."""
        greedy = replace(self.options, do_sample=False, routed_experts=False)
        return self._rollout(prompts, greedy, range(len(prompts)), policy_version=policy_version)

    def _rollout(
        self,
        prompts: Sequence[Mapping[str, Any]],
        options: GenerationOptions,
        sequence_ids: range,
        *,
        policy_version: int,
    ) -> Rollout:
        """Return the rollout of as many adjacent rows per prompt as there are ``sequence_ids``."""
        samples = len(sequence_ids) // len(prompts)
        rows = [sample for sample in prompts for _ in range(samples)]
        ids = [np.asarray(sample["input_ids"], np.int64) for sample in rows]
        completions = self._generate(ids, options, sequence_ids)
        width = max(len(c.token_ids) for c in completions)
        logprobs = np.zeros((len(rows), width), np.float32)
        for row, completion in zip(logprobs, completions, strict=True):
            row[: len(completion.logprobs)] = completion.logprobs
        has_drafts = completions[0].drafted is not None
        return Rollout(
            prompts=tuple(ids),
            responses=tuple(c.token_ids for c in completions),
            finish_reasons=tuple(c.finish_reason for c in completions),
            group_ids=np.repeat(np.arange(len(prompts)), samples),
            inputs=tuple(sample["raw_input"] for sample in rows),
            labels=tuple(sample.get("label") for sample in rows),
            routed_experts=tuple(c.routed_experts for c in completions if c.routed_experts is not None),
            rollout_logprobs=logprobs,
            drafted=np.array([c.drafted for c in completions], np.int64) if has_drafts else None,
            accepted=np.array([c.accepted for c in completions], np.int64) if has_drafts else None,
            policy_version=policy_version,
        )

    def _generate(
        self, prompts: Sequence[np.ndarray], options: GenerationOptions, sequence_ids: range
    ) -> list[Completion]:
        size = self._rows_per_call or len(prompts)
        completions = []
        for first in range(0, len(prompts), size):
            part = slice(first, first + size)
            completions += self._engine.generate(
                prompts[part], options, seed=self._seed, sequence_ids=sequence_ids[part]
            )
        return completions
