"""Pairs of answers as micro-batches and objectives of reward and cost models. Legend: n pairs, S padded sequence."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle

from alignment.algorithms.bradley_terry import BradleyTerryHyperparameters, bradley_terry_loss
from alignment.algorithms.cost_model import cost_model_loss
from alignment.algorithms.preference_losses import first_difference
from alignment.loops.supervised import SupervisedTask
from alignment.models.decoder.score_model import ScoreModel
from alignment.parallel.runner import Objective
from alignment.records import Loss, TokenBatch
from alignment.training.objectives import fields_as_tensors

NO_TARGETS = np.empty(0, np.int64)


@dataclass(frozen=True, kw_only=True)
class PairKind:
    """What tells reward data from cost data: the names of the two sides, and the loss on their scores."""

    sides: tuple[str, str]
    """The preferred side first."""
    margin_sign: float
    """+1 when the preferred side should score higher (reward), -1 when lower (cost)."""
    loss: Callable[..., Loss]
    sign_fields: tuple[str, ...] = ()
    """Where samples keep the safety signs of the two sides (+1 safe, -1 not), which the loss reads."""


REWARD_PAIRS = PairKind(sides=("better", "worse"), margin_sign=1.0, loss=bradley_terry_loss)
COST_PAIRS = PairKind(
    sides=("safer", "unsafer"),
    margin_sign=-1.0,
    loss=cost_model_loss,
    sign_fields=("safer_safety_sign", "unsafer_safety_sign"),
)
PAIR_KINDS = {"reward": REWARD_PAIRS, "cost": COST_PAIRS}


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
        **{name: np.array([sample[name] for sample in samples], np.float32) for name in kind.sign_fields},
    }
    batch.fields.update(fields)
    return batch


def read_pair_scores(model: Any, batch: TokenBatch) -> tuple[paddle.Tensor, paddle.Tensor]:
    """Return scores (preferred [n, S], other [n, S]); see ``training_scores``."""
    scores = model.training_scores(batch)
    num_pairs = batch.num_rows // 2
    return scores[:num_pairs], scores[num_pairs:]


def read_pair_ends(model: Any, batch: TokenBatch) -> paddle.Tensor:
    """Return the end scores of all 2n rows as they will be used, [2n]."""
    return model.apply_normalization(model.read_end_scores(batch))


def build_task(kind: PairKind, hyperparameters: BradleyTerryHyperparameters, *, model: ScoreModel) -> SupervisedTask:
    """Return what the supervised loop needs to train ``model`` on pairs of ``kind``."""

    def make_objective(batches: Sequence[TokenBatch]) -> Objective:
        num_pairs = sum(batch.num_rows // 2 for batch in batches)

        def loss(scores: Any, batch: TokenBatch) -> Loss:
            fields = fields_as_tensors(batch)
            return kind.loss(*scores, fields=fields, hyperparameters=hyperparameters, denominator=num_pairs)

        return Objective(read_pair_scores, loss)

    return SupervisedTask(
        make_batch=lambda samples: pair_batch(samples, kind),
        make_objective=make_objective,
        after_update=lambda runner: model.learn_statistics(runner.share),
    )
