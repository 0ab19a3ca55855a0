"""One score of the scores of the steps of an answer (Lightman et al. 2023, Math-Shepherd)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor

from alignment.errors import ModelFolderError
from alignment.records import TokenBatch

AGGREGATIONS = ("min", "product", "mean", "last")


def aggregate_steps(scores: Tensor, is_step: Tensor, how: str) -> Tensor:
    """Return one number from 0 to 1 for each row [n]: ``how`` (of ``AGGREGATIONS``) over the steps' probabilities.

    ``scores`` [n, S]; ``is_step`` [n, S] bool, True at the end of a step, at least once a row.
    """
    inside = is_step.astype(scores.dtype)
    if how == "product":
        return paddle.exp((F.log_sigmoid(scores) * inside).sum(axis=-1))
    good = F.sigmoid(scores)
    if how == "min":
        return paddle.where(is_step, good, paddle.full_like(good, 2.0)).min(axis=-1)
    if how == "mean":
        return (good * inside).sum(axis=-1) / inside.sum(axis=-1)
    assert how == "last", how
    place = (paddle.arange(scores.shape[1]).astype(scores.dtype) * inside).argmax(axis=-1)
    return paddle.take_along_axis(good, place.unsqueeze(-1), axis=1).squeeze(-1)


def step_ends(batch: TokenBatch, token: int) -> np.ndarray:
    """Return [n, S] bool, True where ``token`` ends a step of an answer; the last token if there is none."""
    positions = np.arange(batch.input_ids.shape[1])[None, :]
    answer = (positions >= batch.fields["answer_starts"][:, None]) & (positions < batch.lengths[:, None])
    found = answer & (batch.input_ids == token)
    return found | (~found.any(axis=1, keepdims=True) & (positions == batch.lengths[:, None] - 1))


def read_step_options(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the score of steps needs; ModelFolderError if a model of that form lacks it."""
    if raw.get("score_form") != "steps":
        return {}
    token, how = raw.get("step_token_id"), raw.get("step_aggregation")
    if not isinstance(token, int) or how not in AGGREGATIONS:
        raise ModelFolderError(
            f"config.json has score_form=steps with step_token_id={token!r} and step_aggregation={how!r} (allowed: a "
            f"token id; {', '.join(AGGREGATIONS)})"
        )
    return {"step_token_id": token, "step_aggregation": how}
