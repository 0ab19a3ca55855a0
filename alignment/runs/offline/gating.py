"""Train a gating network on the attributes of a frozen reward model: what it starts from, what length is worth."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import paddle

from alignment.algorithms.length_debiasing import length_penalty, spearman
from alignment.errors import ArgumentError, DataError
from alignment.models.decoder.gating import GATING, GatingOptions
from alignment.models.decoder.placement import Placement
from alignment.models.decoder.score_model import ScoreModel
from alignment.models.folders.attribute_heads import StoredHead
from alignment.models.folders.hub import load_score_model
from alignment.models.tokenizer.tokenizer import Tokenizer
from alignment.parallel.build_runner import build_runner
from alignment.records import TokenBatch
from alignment.runs.launch import Launch
from alignment.runs.offline.objective import TrainedModel
from alignment.runs.offline.pairs import REWARD_PAIRS, pair_batch
from alignment.telemetry import log
from alignment.telemetry.wording import counted

NUM_REFERENCE_PAIRS = 2000
"""The first training pairs, whose answers show what length is worth."""


def load_gated(launch: Launch, folder: str | None, tokenizer: Tokenizer, *, is_trained: bool = True) -> ScoreModel:
    """Return the model in ``folder`` with a gating network; all its other weights are frozen."""
    reward, resumes = launch.parsed.offline, launch.checkpoint is not None
    gating = GatingOptions(
        hidden_size=reward.gating_hidden_size,
        num_layers=reward.gating_num_layers,
        temperature=reward.gating_temperature,
        scale=reward.gating_scale,
    )
    model = load_score_model(
        folder,
        dtype=launch.dtype,
        stored_head=StoredHead(
            None if resumes else reward.value_head_prefix, keeps_attributes=True, gating=None if resumes else gating
        ),
        seed=launch.parsed.training.seed,
        placement=Placement.of(launch.topology),
    )
    found = model.options.num_labels
    if reward.num_labels not in (None, found):
        raise ArgumentError(f"num_labels={reward.num_labels}, but the model in {folder} has {found} scores")
    freeze_below(model, f"{GATING}.")
    return model


def freeze_below(model: ScoreModel, trained: str) -> None:
    """Freeze every parameter of ``model`` but those whose names begin with ``trained``."""
    for name, parameter in model.named_parameters():
        parameter.stop_gradient = not name.startswith(trained)
    model.model.is_frozen = True


GATED = TrainedModel("reward", parts=("reward",), load=load_gated)


def read_gated_scores(model: Any, batch: TokenBatch) -> paddle.Tensor:
    """Return the scores [2n] of n pairs with gradients."""
    return model.read_end_scores(batch)


def settle_lengths(launch: Launch, model: ScoreModel, rows: Sequence[Mapping[str, Any]]) -> None:
    """Give the gating network of ``model`` the length penalties that training pairs show, unless it has them."""
    correlation, gating = launch.parsed.offline.debias_length, model.options.gating
    if launch.checkpoint is not None or correlation is None or gating.length_penalties:
        return
    pairs = [rows[i] for i in range(min(len(rows), NUM_REFERENCE_PAIRS))]
    size = launch.parsed.training.per_device_eval_batch_size
    batches = [pair_batch(pairs[i : i + size], REWARD_PAIRS) for i in range(0, len(pairs), size)]
    scores = np.concatenate(build_runner(model, launch.topology).forward(batches, _read_attributes))
    lengths = np.concatenate([batch.lengths - batch.fields["answer_starts"] for batch in batches])
    _refuse_constant(scores, lengths, model.options.labels, launch.parsed.offline.train_datasets)
    penalties = [length_penalty(column, lengths, correlation) for column in scores.T]
    for name, column, penalty in zip(model.options.labels, scores.T, penalties, strict=True):
        before, after = (spearman(values, lengths) for values in (column, column - penalty * lengths))
        log.info(
            f"{name}: {penalty:+.4g} for each token of an answer; Spearman correlation with the length "
            f"{before:+.3f}, then {after:+.3f} (on {counted(len(lengths), 'answer')})"
        )
    model.options = dataclasses.replace(
        model.options, gating=dataclasses.replace(gating, length_penalties=tuple(map(float, penalties)))
    )


def _read_attributes(model: Any, batch: TokenBatch) -> paddle.Tensor:
    return model.read_attributes(batch)


def _refuse_constant(scores: np.ndarray, lengths: np.ndarray, names: Sequence[str], datasets: Any) -> None:
    """Refuse what has no correlation: answers of one length, an attribute with one score for all of them."""
    if np.ptp(lengths) == 0:
        raise DataError(
            f"debias_length: all {len(lengths)} answers looked at in {datasets} have {lengths[0]} tokens, so nothing "
            "shows what length is worth; give debias_length=null"
        )
    for name, column in zip(names, scores.T, strict=True):
        if np.ptp(column) == 0:
            raise DataError(
                f"attribute {name!r} of the model has the score {column[0]:g} for all {len(column)} answers looked at "
                f"in {datasets}: it was not trained"
            )
