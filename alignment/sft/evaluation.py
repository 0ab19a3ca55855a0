"""Cross-entropy on held-out answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from alignment.loops.evaluation import Evaluation
from alignment.models.logprobs import policy_logprobs
from alignment.parallel.runner import ModelRunner
from alignment.records import TokenBatch
from alignment.training.objectives import supervised_batch

LARGEST_LOSS = 700.0
"""exp of more is infinite in float64."""


@dataclass(frozen=True, kw_only=True)
class SupervisedEvaluation:
    """Mean loss over all target tokens of a dataset."""

    runner: ModelRunner
    samples: Sequence[dict[str, Any]]
    rows_per_batch: int

    def __call__(self) -> Evaluation:
        """Return ``eval/loss`` (nats a token) and ``eval/perplexity``; no sample rows."""
        size = self.rows_per_batch
        batches = [supervised_batch(self.samples[i : i + size]) for i in range(0, len(self.samples), size)]
        logprobs = np.concatenate(self.runner.forward(batches, _read))
        loss = float(-logprobs.astype(np.float64).mean())
        return {"eval/loss": loss, "eval/perplexity": math.exp(min(loss, LARGEST_LOSS))}, []


def _read(model: Any, batch: TokenBatch) -> Any:
    return policy_logprobs(model, batch, temperature=1.0, with_entropy=False)[0]
