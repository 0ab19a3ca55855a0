"""Token log-probs, entropies and values of a batch.

The token at position p is predicted from the hidden state at position p - 1; only this module applies that shift.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle

from alignment.models.decoder.split_vocabulary import (
    VocabularyShare,
    logits_above_target,
    split_argmax,
    split_logprobs,
)
from alignment.ops.host_arrays import from_host
from alignment.ops.token_logprobs import head_logprobs
from alignment.records import TokenBatch

_ROWS_AT_ONCE = 256
"""Tokens per block when searching for the likeliest token, to bound the memory for logits."""


def predicting_hidden(model: Any, batch: TokenBatch) -> paddle.Tensor:
    """Return the final hidden states [T, H] that predict the targets of ``batch``, as the model's head reads them."""
    assert batch.num_targets > 0 and int(batch.target_positions.min()) > 0, "a target needs a token before it"
    states = model.model.at(batch, batch.target_rows, batch.target_positions - 1)
    return model.head_inputs(states) if model.kind == "causal" else states


def policy_logprobs(
    model: Any, batch: TokenBatch, *, temperature: float, with_entropy: bool
) -> tuple[paddle.Tensor, paddle.Tensor | None]:
    """Return float32 (log-probs [T], entropies [T] or None) of the targets of ``batch`` at ``temperature``.

    ``model`` is a CausalLM. Both results carry gradients; the head runs on the T target tokens only. All tensor
    processes get the same numbers.
    """
    hidden, targets = predicting_hidden(model, batch), from_host(batch.target_ids)
    return _logprobs_of(model, hidden, targets, temperature=temperature, with_entropy=with_entropy)


def alternative_logprobs(model: Any, batch: TokenBatch, others: np.ndarray) -> paddle.Tensor:
    """Return float32 log-probs [T, 2] of each target of ``batch``, and of the token in ``others`` [T] in its place."""
    hidden = predicting_hidden(model, batch)
    tokens = paddle.to_tensor(np.concatenate([batch.target_ids, others]))
    both, _ = _logprobs_of(model, paddle.concat([hidden, hidden]), tokens, temperature=1.0, with_entropy=False)
    return both.reshape([2, -1]).T


def smoothed_logprobs(model: Any, batch: TokenBatch) -> tuple[paddle.Tensor, paddle.Tensor]:
    """Return float32 (log-probs [T] of the targets, log-probs averaged over the vocabulary [T]), with gradients.

    Logits are linear in the head's columns W_v, so the average is log p_y + h (mean of W_v - W_y): no logits are kept.
    """
    hidden = predicting_hidden(model, batch)
    targets = from_host(batch.target_ids)
    logprobs, _ = _logprobs_of(model, hidden, targets, temperature=1.0, with_entropy=False)
    share = VocabularyShare(model.placement.tensor, model.first_token)
    head, size = model.head_product(), model.config.vocab_size
    return logprobs, logprobs + logits_above_target(hidden, head, targets, share=share, vocab_size=size)


def graded_logprobs(model: Any, batch: TokenBatch) -> tuple[paddle.Tensor, paddle.Tensor]:
    """Return float32 (log-probs [T], 1 where the target is the likeliest token, else 0 [T]) for evaluation."""
    hidden = predicting_hidden(model, batch)
    targets = from_host(batch.target_ids)
    logprobs, _ = _logprobs_of(model, hidden, targets, temperature=1.0, with_entropy=False)
    head = model.head_product()
    share = VocabularyShare(model.placement.tensor, model.first_token)
    found = [
        split_argmax(head.logits(hidden[i : i + _ROWS_AT_ONCE]), share)
        for i in range(0, hidden.shape[0], _ROWS_AT_ONCE)
    ]
    return logprobs, (paddle.concat(found) == targets).astype("float32")


def _logprobs_of(
    model: Any, hidden: paddle.Tensor, targets: paddle.Tensor, *, temperature: float, with_entropy: bool
) -> tuple[paddle.Tensor, paddle.Tensor | None]:
    weight, transposed = model.head()
    options = {
        "transposed": transposed,
        "cap": model.config.logit_cap,
        "temperature": temperature,
        "with_entropy": with_entropy,
    }
    group = model.placement.tensor
    if group.size == 1:
        return head_logprobs(hidden, weight, targets, **options)
    return split_logprobs(hidden, weight, targets, share=VocabularyShare(group, model.first_token), **options)


def token_values(model: Any, batch: TokenBatch) -> paddle.Tensor:
    """Return the values [n, R] (float32) of a ScoreModel in the state before each target token; zero elsewhere."""
    hidden = predicting_hidden(model, batch)
    return to_grid(model.token_scores(hidden), batch)


def to_grid(flat: paddle.Tensor, batch: TokenBatch) -> paddle.Tensor:
    """Return ``flat`` [T] scattered into the response grid [n, R] of ``batch``, zero elsewhere; carries gradients."""
    shape = [batch.input_ids.shape[0], batch.response_width]
    cells = from_host(batch.target_rows * batch.response_width + batch.target_columns)
    return paddle.scatter(paddle.zeros([shape[0] * shape[1]], flat.dtype), cells, flat).reshape(shape)
