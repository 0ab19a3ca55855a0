"""Outputs of a model on fixed token ids of several lengths, to compare two models that should be the same."""

from __future__ import annotations

import numpy as np
import paddle

from alignment.models.decoder.decoder import CausalLM
from alignment.models.decoder.score_model import ScoreModel
from alignment.records import TokenBatch

PROBE_ROWS, PROBE_LENGTH = 4, 32


def probe(model: CausalLM | ScoreModel) -> list[paddle.Tensor]:
    """Return float32 logits [length, V], or scores [length], of each fixed row."""
    generator = np.random.default_rng(0)
    width = min(PROBE_LENGTH, model.config.max_position_embeddings)
    lengths = generator.integers(1, width + 1, PROBE_ROWS)
    rows = [generator.integers(0, model.config.vocab_size, n) for n in lengths]
    batch = TokenBatch.build(rows, [np.empty(0, np.int64)] * PROBE_ROWS)
    model.eval()
    with paddle.no_grad():
        is_score = isinstance(model, ScoreModel)
        outputs = model(batch) if is_score else model(batch.input_ids, lengths=batch.lengths)
    return [outputs[i, :n].astype("float32") for i, n in enumerate(lengths.tolist())]


def largest_difference(one: list[paddle.Tensor], other: list[paddle.Tensor]) -> float:
    """Return the largest absolute difference of two results of ``probe``."""
    return max(float((a - b).abs().max()) for a, b in zip(one, other, strict=True))
