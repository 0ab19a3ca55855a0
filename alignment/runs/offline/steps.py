"""Answers in steps: micro-batches, and what is read from the model. Legend: n answers, S padded sequence length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import paddle

from alignment.records import TokenBatch
from alignment.runs.offline.pairs import NO_TARGETS


def step_batch(samples: Sequence[Mapping[str, Any]]) -> TokenBatch:
    """Return n answers as a micro-batch with the fields ``step_labels`` and ``is_step`` [n, S]."""
    batch = TokenBatch.build([sample["input_ids"] for sample in samples], [NO_TARGETS] * len(samples))
    labels, is_step = (np.zeros(batch.input_ids.shape, np.float32) for _ in range(2))
    for row, sample in enumerate(samples):
        labels[row, sample["step_positions"]] = sample["step_labels"]
        is_step[row, sample["step_positions"]] = 1.0
    batch.fields.update({"step_labels": labels, "is_step": is_step})
    return batch


def read_step_scores(model: Any, batch: TokenBatch) -> paddle.Tensor:
    """Return the scores [n, S] of all tokens with gradients, as wide as the fields."""
    return model(batch)[:, : batch.fields["is_step"].shape[1]]


def count_steps(batches: Sequence[TokenBatch]) -> int:
    """Return the number of labels in all micro-batches of an update."""
    return sum(int(batch.fields["is_step"].sum()) for batch in batches)
