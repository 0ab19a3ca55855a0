"""Cross-entropy on held-out answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from alignment.loops.evaluation import Evaluation
from alignment.models.decoder.logprobs import graded_logprobs
from alignment.parallel.runner import ModelRunner
from alignment.runs.offline.objective import EvaluationInputs
from alignment.training.objectives import supervised_batch

LARGEST_LOSS = 700.0
"""exp of larger numbers overflows float64."""


@dataclass(frozen=True, kw_only=True)
class SupervisedEvaluation:
    """Mean loss and accuracy over all target tokens of a dataset."""

    runner: ModelRunner
    samples: Sequence[dict[str, Any]]
    rows_per_batch: int

    @classmethod
    def of(cls, inputs: EvaluationInputs) -> SupervisedEvaluation:
        """Return the evaluation of a supervised run."""
        return cls(runner=inputs.runner, samples=inputs.held_out, rows_per_batch=inputs.rows_per_batch)

    def __call__(self) -> Evaluation:
        """Return ``eval/loss`` (nats per token), ``eval/perplexity`` and ``eval/accuracy``; no sample rows.

        Accuracy is the share of target tokens to which the model gives the highest probability.
        """
        size = self.rows_per_batch
        batches = [supervised_batch(self.samples[i : i + size]) for i in range(0, len(self.samples), size)]
        outputs = self.runner.forward(batches, graded_logprobs)
        logprobs, hits = (np.concatenate(part).astype(np.float64) for part in zip(*outputs, strict=True))
        loss = float(-logprobs.mean())
        perplexity = math.exp(min(loss, LARGEST_LOSS))
        return {"eval/loss": loss, "eval/perplexity": perplexity, "eval/accuracy": float(hits.mean())}, []
