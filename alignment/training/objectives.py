"""Training objectives: what to read from a model, and the loss computed from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import paddle

from alignment.algorithms.on_policy.spec import CRITIC, CriticRole
from alignment.algorithms.supervised_losses import SupervisedHyperparameters, cross_entropy
from alignment.metrics import Metric
from alignment.models.decoder.logprobs import policy_logprobs, smoothed_logprobs, to_grid, token_values
from alignment.ops.host_arrays import from_host
from alignment.parallel.runner import Objective
from alignment.records import Loss, TokenBatch

IGNORED_LABEL = -100


def supervised_batch(samples: Sequence[Mapping[str, np.ndarray]]) -> TokenBatch:
    """Return samples of a SupervisedDataset (``input_ids``, ``labels``) as a micro-batch with labels as targets."""
    targets = [np.flatnonzero(sample["labels"] != IGNORED_LABEL) for sample in samples]
    return TokenBatch.build([s["input_ids"] for s in samples], [t[t >= 1] for t in targets])


def supervised_objective(batches: Sequence[TokenBatch], *, coefficient: float = 1.0, name: str = "sft") -> Objective:
    """Return the cross-entropy over all target tokens of an update's ``batches``, times ``coefficient``.

    The metric is without ``coefficient``.
    """
    num_targets = count_targets(batches)

    def loss(logprobs: paddle.Tensor, batch: TokenBatch) -> Loss:
        value = cross_entropy(logprobs, denominator=num_targets).value
        return Loss(value * coefficient, {f"{name}/loss": Metric(value.detach())})

    return Objective(read_logprobs, loss)


def count_targets(batches: Sequence[TokenBatch]) -> int:
    """Return the number of target tokens in all micro-batches of an update."""
    return sum(batch.num_targets for batch in batches)


def read_logprobs(model: Any, batch: TokenBatch) -> paddle.Tensor:
    """Return the log-probs [T] of the target tokens with gradients."""
    return policy_logprobs(model, batch, temperature=1.0, with_entropy=False)[0]


def supervised_reader(hyperparameters: SupervisedHyperparameters) -> Callable[[Any, TokenBatch], Any]:
    """Return what reads the input of ``sft_loss``."""
    if hyperparameters.label_smoothing > 0:
        return smoothed_logprobs
    return lambda model, batch: (read_logprobs(model, batch), None)


def read_answer_logprobs(model: Any, batch: TokenBatch) -> paddle.Tensor:
    """Return the summed log-prob [n] of each row's targets, with gradients."""
    return to_grid(read_logprobs(model, batch), batch).sum(axis=-1)


def read_split_answers(model: Any, batch: TokenBatch) -> paddle.Tensor:
    """Return two sums of each row's target log-probs [2n, 2]: up to the length of its pair's shorter answer, beyond it.

    ``batch`` has n pairs, all first answers before all others.
    """
    lengths = batch.response_mask.sum(axis=-1).reshape(2, -1)
    shared = np.concatenate([lengths.min(axis=0)] * 2)
    is_shared = paddle.to_tensor((np.arange(batch.response_width) < shared[:, None]).astype(np.float32))
    grid = to_grid(read_logprobs(model, batch), batch)
    return paddle.stack([(grid * is_shared).sum(axis=-1), (grid * (1 - is_shared)).sum(axis=-1)], axis=-1)


def fields_as_tensors(batch: TokenBatch) -> dict[str, paddle.Tensor]:
    """Return the batch's fields and its response mask as device tensors."""
    fields = {name: from_host(value) for name, value in batch.fields.items()}
    return {"response_mask": from_host(batch.response_mask), **fields}


def read_policy(model: Any, batch: TokenBatch, *, temperature: float, with_entropy: bool) -> Any:
    """Return (log-probs [n, R], entropy [n, R] or None) with gradients."""
    logprobs, entropy = policy_logprobs(model, batch, temperature=temperature, with_entropy=with_entropy)
    return to_grid(logprobs, batch), None if entropy is None else to_grid(entropy, batch)


read_critic = token_values
"""The critic's values [n, R] with gradients."""


def policy_objective(loss: Any, *, temperature: float, with_entropy: bool) -> Objective:
    """Wrap ``loss(logprobs, fields, entropy=...) -> Loss``."""
    return Objective(
        partial(read_policy, temperature=temperature, with_entropy=with_entropy),
        lambda output, batch: loss(output[0], fields_as_tensors(batch), entropy=output[1]),
    )


def values_objective(loss: Any, returns: Any, keep: Callable[[paddle.Tensor], Any]) -> Objective:
    """Wrap ``loss(values, fields) -> Loss`` and ``returns(rewards, values, mask=...)`` for a critic that learns from
    the values of the same pass, which ``keep`` is called with ([n, R], without gradients).

    The batches have the fields ``rewards`` and ``estimate_mask`` instead of the old values and the returns.
    """

    def of_pass(values: paddle.Tensor, batch: TokenBatch) -> Loss:
        fields, old = fields_as_tensors(batch), values.detach()
        keep(old)
        wanted = returns(fields["rewards"], old, mask=fields["estimate_mask"])
        return loss(values, {**fields, CRITIC.values: old, CRITIC.returns: wanted})

    return Objective(read_critic, of_pass)


def critic_objective(loss: Any, role: CriticRole = CRITIC) -> Objective:
    """Wrap ``loss(values, fields) -> Loss``: it finds the fields of ``role`` under the names of ``CRITIC``'s, and its
    metrics are renamed likewise.
    """

    def of_role(values: paddle.Tensor, batch: TokenBatch) -> Loss:
        fields = fields_as_tensors(batch)
        own = {CRITIC.values: fields[role.values], CRITIC.returns: fields[role.returns]}
        found = loss(values, {**fields, **own})
        renamed = {name.replace(f"{CRITIC.name}/", f"{role.name}/", 1): m for name, m in found.metrics.items()}
        return Loss(found.value, renamed)

    return Objective(read_critic, of_role)
