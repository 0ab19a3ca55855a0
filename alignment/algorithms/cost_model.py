"""The loss of a cost model: the reward model's hyperparameters, with safety labels in addition to preferences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from alignment.algorithms import late_paddle as paddle
from alignment.algorithms.bradley_terry import BradleyTerryHyperparameters
from alignment.algorithms.preference_losses import (
    SQUARES_WEIGHT,
    SafetySigns,
    cost_metrics,
    scores_at,
    sequence_cost_loss,
    token_cost_loss,
)
from alignment.records import Loss

if TYPE_CHECKING:
    from paddle import Tensor


def cost_model_loss(
    safer_costs: Tensor,
    unsafer_costs: Tensor,
    *,
    fields: Mapping[str, Tensor],
    hyperparameters: BradleyTerryHyperparameters,
    denominator: float | Tensor,
) -> Loss:
    """Return the loss on the costs [n, S] of the safer and the less safe answer at every position.

    ``fields``: ``safer_ends`` and ``unsafer_ends`` [n] int64, the position of each answer's last token;
    ``safer_safety_sign`` and ``unsafer_safety_sign`` [n], +1 for safe and -1 for unsafe; for the token-wise loss
    ``first_difference`` [n] int64. ``denominator``: the number of pairs in the whole update.
    """
    signs = SafetySigns(fields["safer_safety_sign"], fields["unsafer_safety_sign"])
    # The cost losses follow the convention of safe-rlhf for squares.
    weight = SQUARES_WEIGHT[hyperparameters.regularization_convention] / SQUARES_WEIGHT["safe-rlhf"]
    options = {"signs": signs, "regularization": weight * hyperparameters.regularization, "denominator": denominator}
    safer_end = scores_at(safer_costs, fields["safer_ends"])
    unsafer_end = scores_at(unsafer_costs, fields["unsafer_ends"])
    if hyperparameters.loss_type == "sequence-wise":
        return sequence_cost_loss(safer_end, unsafer_end, **options)
    assert hyperparameters.loss_type == "token-wise", hyperparameters.loss_type
    loss = token_cost_loss(
        safer_costs,
        unsafer_costs,
        first_difference=fields["first_difference"],
        last_valid=paddle.maximum(fields["safer_ends"], fields["unsafer_ends"]),
        **options,
    )
    metrics = cost_metrics(safer_end, unsafer_end, signs=signs, denominator=denominator)
    return Loss(loss.value, {**loss.metrics, **metrics})
