"""Keys of the kinds of reward models: attributes, gating networks, steps, and the head."""

from __future__ import annotations

from typing import Any

import numpy as np

from alignment.runs.offline.pairs import REWARD_PAIRS, pair_batch
from tests.contract.keys.assembled import Run
from tests.contract.keys.data_rows import REWARD_TASK, RM, columns_of, score_model
from tests.contract.keys.rows import Row

PACKING = ["coverage", "excess", "closed", "chatter"]
PACKED = {"train_datasets": "packing-attributes/test:8/-1"}
NORMALIZED = {"normalize_score_during_training": True}
STEPS = {"train_datasets": "packing-steps/test:8/-1"}
GATED = {"model_name_or_path": "{two scores}"}
GATED_RUN = {**GATED, "objective": "gating"}


def _trained(run: Run) -> set[str]:
    """The first part of the names of what is trained."""
    return {name.partition(".")[0] for name, p in score_model(run).named_parameters() if not p.stop_gradient}


def _gating(run: Run) -> Any:
    return score_model(run).options.gating


def _pearson_of_length(run: Run) -> float:
    """The correlation that the first attribute keeps with the length of the training answers."""
    batch = pair_batch([run.dataset[i] for i in range(len(run.dataset))], REWARD_PAIRS)
    lengths = batch.lengths - batch.fields["answer_starts"]
    scores = score_model(run).read_attributes(batch).numpy()[:, 0]
    return abs(np.corrcoef(scores - _gating(run).length_penalties[0] * lengths, lengths)[0, 1])


ROWS = (
    Row(
        "objective", "regression", lambda r: (r.call(REWARD_TASK)[0].title, len(r.dataset)),
        ("regression reward model", 8), with_={**PACKED, "attributes": PACKING}, only=RM, alone=True,
    ),
    Row(
        "objective", "gating", lambda r: (r.call(REWARD_TASK)[0].title, _trained(r)),
        ("gating network of a reward model", {"gating"}), with_=GATED, only=RM, alone=True,
    ),
    Row(
        "objective", "process", lambda r: (r.call(REWARD_TASK)[0].title, score_model(r).options.score_form),
        ("process reward model", "steps"), with_={**STEPS, "placeholder_token": "and"}, only=RM, alone=True,
    ),
    Row(
        "placeholder_token", "and", lambda r: (score_model(r).options.step_token_id, r.dataset.options.step_token),
        (9, "and"), with_={**STEPS, "objective": "process"}, only=RM, alone=True,
    ),
    Row(
        "reward_tokens", ["yes", "no"], lambda r: list(r.dataset.options.reward_tokens),
        with_={**STEPS, "objective": "process", "placeholder_token": "and"}, only=RM, alone=True,
    ),
    Row(
        "step_aggregation", "product", lambda r: score_model(r).options.step_aggregation,
        with_={**STEPS, "objective": "process", "placeholder_token": "and"}, only=RM, alone=True,
    ),
    Row("train_head_only", True, _trained, {"score"}, only=RM, alone=True),
    Row(
        "gating_hidden_size", 6, lambda r: list(score_model(r).gating.parameters()[0].shape), [64, 6],
        with_=GATED_RUN, only=RM, alone=True,
    ),
    Row(
        "gating_num_layers", 1, lambda r: len(score_model(r).gating.parameters()) // 2, 2,
        with_=GATED_RUN, only=RM, alone=True,
    ),
    Row(
        "gating_temperature", 4.0, lambda r: _gating(r).temperature, with_=GATED_RUN, only=RM, alone=True,
    ),
    Row(
        "gating_scale", 0.5, lambda r: _gating(r).scale, with_=GATED_RUN, only=RM, alone=True,
    ),
    Row(
        "debias_length", "pearson", lambda r: _pearson_of_length(r) < 1e-4, True,
        with_=GATED_RUN, only=RM, alone=True,
    ),
    Row(
        "attributes", PACKING, lambda r: score_model(r).options.labels, tuple(PACKING),
        with_={**PACKED, "objective": "regression"}, only=RM, alone=True,
    ),
    Row(
        "attributes_key", "values", lambda r: columns_of(r)["attributes_key"],
        with_={"train_datasets": "jsonl:1:{attributes.jsonl}", "objective": "regression", "attributes": ["a", "b"]},
        only=RM, alone=True,
    ),
    Row(
        "num_labels", 4, lambda r: r.launch.parsed.offline.num_labels,
        with_={**PACKED, "objective": "regression", "attributes": PACKING}, only=RM, alone=True,
    ),
    Row("score_bias", True, lambda r: score_model(r).score.bias is not None, only=RM),
    Row("normalize_score_during_training", True, lambda r: score_model(r).options.do_normalize, only=RM),
    Row(
        "normalizer_type", "RunningMeanStd", lambda r: type(score_model(r).normalizer).__name__, with_=NORMALIZED,
        only=RM,
        alone=True,
    ),
    Row("normalizer_momentum", 0.75, lambda r: score_model(r).normalizer.momentum, with_=NORMALIZED, only=RM),
)  # fmt: skip
