"""Make micro-batches of answer pairs and read scores from them. Legend: n pairs, S padded sequence length."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle

from alignment.algorithms.bradley_terry import BradleyTerryHyperparameters
from alignment.algorithms.preference.answers import PairCounts
from alignment.algorithms.preference_losses import first_difference
from alignment.records import TokenBatch

SIDES = ("better", "worse")
NO_TARGETS = np.empty(0, np.int64)


@dataclass(frozen=True, kw_only=True)
class PairKind:
    """The difference between reward data and cost data."""

    sides: tuple[str, str]
    """The preferred side first."""
    margin_sign: float
    """+1 if the preferred side should score higher (reward), -1 if lower (cost)."""
    sign_fields: tuple[str, ...] = ()
    """Sample fields with the safety signs of the two sides (+1 safe, -1 unsafe)."""


REWARD_PAIRS = PairKind(sides=("better", "worse"), margin_sign=1.0)
COST_PAIRS = PairKind(
    sides=("safer", "unsafer"),
    margin_sign=-1.0,
    sign_fields=("safer_safety_sign", "unsafer_safety_sign"),
)


def pair_batch(samples: Sequence[Mapping[str, Any]], kind: PairKind) -> TokenBatch:
    """Return n pairs as one micro-batch of 2n rows: all preferred sides, then all others."""
    first, second = ([sample[f"{side}_input_ids"] for sample in samples] for side in kind.sides)
    batch = TokenBatch.build([*first, *second], [NO_TARGETS] * (2 * len(samples)))
    num_pairs = len(samples)
    fields = {
        f"{kind.sides[0]}_ends": batch.lengths[:num_pairs] - 1,
        f"{kind.sides[1]}_ends": batch.lengths[num_pairs:] - 1,
        "first_difference": first_difference(
            batch.input_ids[:num_pairs],
            batch.input_ids[num_pairs:],
            better_lengths=batch.lengths[:num_pairs],
            worse_lengths=batch.lengths[num_pairs:],
        ),
        "answer_starts": np.array([sample["prompt_length"] for sample in samples] * 2, np.int64),
        **{name: np.array([sample[name] for sample in samples], np.float32) for name in kind.sign_fields},
        **_margins(samples),
    }
    batch.fields.update(fields)
    return batch


def _margins(samples: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Return ``margin`` [n], if the samples have it."""
    return {
        name: np.array([sample[name] for sample in samples], np.float32) for name in ("margin",) if name in samples[0]
    }


def answer_batch(samples: Sequence[Mapping[str, Any]]) -> TokenBatch:
    """Return n pairs as one micro-batch of 2n rows, preferred answers first; the targets are the answer tokens."""
    sequences = [sample[f"{side}_input_ids"] for side in SIDES for sample in samples]
    starts = [sample["prompt_length"] for sample in samples] * 2
    targets = [np.arange(start, len(ids)) for start, ids in zip(starts, sequences, strict=True)]
    batch = TokenBatch.build(sequences, targets)
    batch.fields.update(_margins(samples))
    return batch


def read_pair_scores(model: Any, batch: TokenBatch) -> tuple[paddle.Tensor, paddle.Tensor]:
    """Return scores (preferred [n, S], other [n, S]); see ``training_scores``."""
    better, worse = model.training_scores(batch).split(2)
    return better, worse


def read_pair_end_scores(model: Any, batch: TokenBatch) -> tuple[paddle.Tensor, paddle.Tensor]:
    """Return ``read_pair_scores`` for a loss that needs only the scores at last tokens."""
    better, worse = model.training_scores(batch, only_ends=True).split(2)
    return better, worse


def pair_reader(hyperparameters: BradleyTerryHyperparameters) -> Callable[..., tuple[paddle.Tensor, paddle.Tensor]]:
    """Return what reads the scores that the loss with these ``hyperparameters`` needs."""
    return read_pair_end_scores if hyperparameters.compares_ends else read_pair_scores


def read_pair_ends(model: Any, batch: TokenBatch) -> paddle.Tensor:
    """Return the scores of all 2n rows, normalised as in use, [2n]."""
    return model.apply_normalization(model.read_end_scores(batch))


def count_pairs(batches: Sequence[TokenBatch]) -> int:
    """Return the number of pairs in all micro-batches of an update."""
    return sum(batch.num_rows // 2 for batch in batches)


def count_answers(batches: Sequence[TokenBatch]) -> PairCounts:
    """Return the number of pairs in all micro-batches of an update, and of tokens in their preferred answers."""
    chosen = sum(int((batch.target_rows < batch.num_rows // 2).sum()) for batch in batches)
    return PairCounts(count_pairs(batches), chosen)
