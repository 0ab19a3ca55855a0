"""Compute advantages, returns and per-token rewards of a judged rollout."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle

from alignment.algorithms.on_policy.spec import Judged, OnPolicyAlgorithm
from alignment.errors import UserError
from alignment.ops.host_arrays import from_host
from alignment.records import Experience, Rollout


def estimate_experience(
    rollout: Rollout,
    algorithm: OnPolicyAlgorithm,
    hyperparameters: Any,
    *,
    kl_coeff: float,
    multiplier: float | None = None,
    rewards: np.ndarray | None = None,
) -> Experience:
    """Return the estimates of ``algorithm`` for ``rollout``.

    ``kl_coeff`` is the (possibly adapted) KL coefficient, ``multiplier`` the weight of the cost, if there is one, and
    ``rewards`` what ``estimate_rewards`` returned, if that was called.
    """
    judged = _judged(rollout, multiplier)._replace(rewards=_tensor(rewards))
    with paddle.no_grad():
        estimate = algorithm.estimate(judged, hyperparameters=hyperparameters, kl_coeff=kl_coeff)
    return Experience(
        rollout=rollout,
        advantages=estimate.advantages.numpy(),
        returns=None if estimate.returns is None else estimate.returns.numpy(),
        rewards=estimate.rewards.numpy(),
        kl_rewards=None if estimate.kl_rewards is None else estimate.kl_rewards.numpy(),
        metrics=estimate.metrics,
        cost_returns=None if estimate.cost_returns is None else estimate.cost_returns.numpy(),
    )


def estimate_rewards(
    rollout: Rollout, algorithm: OnPolicyAlgorithm, hyperparameters: Any, *, kl_coeff: float
) -> np.ndarray:
    """Return the rewards [N, R] of ``estimate_experience`` for a ``rollout`` without values."""
    assert algorithm.rewards is not None
    with paddle.no_grad():
        judged = _judged(rollout, None)
        return algorithm.rewards(judged, hyperparameters=hyperparameters, kl_coeff=kl_coeff).numpy()


def learning_mask(rollout: Rollout, *, mask_truncated: bool = False) -> np.ndarray:
    """Return [N, R] float32, 1 on the response tokens that the losses count.

    ``mask_truncated`` takes responses that reached the length limit out; UserError if none is left.
    """
    mask = rollout.response_mask
    if mask_truncated:
        ended = np.array([reason != "length" for reason in rollout.finish_reasons])
        mask = mask * ended[:, None].astype(mask.dtype)
        if not mask.any():
            raise UserError(
                f"mask_truncated_completions: all {rollout.num_rows} responses of a rollout reached the length limit, "
                "so there is nothing to learn from. Raise max_dec_len, or give mask_truncated_completions=false"
            )
    return mask


def learning_fields(experience: Experience) -> dict[str, np.ndarray]:
    """Return the other [N, R] arrays that the losses read, by field name."""
    rollout = experience.rollout
    fields = {
        "old_logprobs": rollout.old_logprobs,
        "importance_weights": rollout.importance_weights,
        "ref_logprobs": rollout.ref_logprobs,
        "advantages": experience.advantages,
        "values": rollout.values,
        "returns": experience.returns,
        "cost_values": rollout.cost_values,
        "cost_returns": experience.cost_returns,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _judged(rollout: Rollout, multiplier: float | None) -> Judged:
    return Judged(
        scores=_tensor(rollout.scores),
        old_logprobs=_tensor(rollout.old_logprobs),
        ref_logprobs=_tensor(rollout.ref_logprobs),
        values=_tensor(rollout.values),
        baseline_scores=_tensor(rollout.baseline_scores),
        mask=_tensor(rollout.response_mask),
        group_ids=from_host(rollout.group_ids),
        costs=_tensor(rollout.costs),
        cost_values=_tensor(rollout.cost_values),
        multiplier=multiplier,
    )


def _tensor(value: np.ndarray | None) -> paddle.Tensor | None:
    return None if value is None else from_host(value.astype(np.float32, copy=False))
