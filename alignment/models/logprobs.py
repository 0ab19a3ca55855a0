"""Token log-probs, entropies and values of a batch: the one place where a token's index is shifted to where it is read.

The token at position p is predicted from the hidden state at position p - 1.
"""

from __future__ import annotations

from typing import Any

import paddle

from alignment.ops.token_logprobs import head_logprobs
from alignment.parallel.vocab_parallel import VocabularyShare, split_logprobs
from alignment.records import TokenBatch


def gather_hidden(hidden: paddle.Tensor, batch: TokenBatch) -> paddle.Tensor:
    """Return the states [T, H] that predict the targets of ``batch``, from hidden [n, S, H]."""
    assert batch.num_targets > 0 and int(batch.target_positions.min()) > 0, "a target needs a token before it"
    rows = batch.target_rows * hidden.shape[1] + batch.target_positions - 1
    return paddle.gather(hidden.reshape([-1, hidden.shape[2]]), paddle.to_tensor(rows))


def policy_logprobs(
    model: Any, batch: TokenBatch, *, temperature: float, with_entropy: bool
) -> tuple[paddle.Tensor, paddle.Tensor | None]:
    """Return (log-probs [T], entropies [T] or None) in float32 of the targets of ``batch`` at ``temperature``.

    ``model`` is a CausalLM. Both carry gradients; the head runs on the T target tokens only. Where the vocabulary is
    split, all tensor processes get the same numbers.
    """
    weight, transposed = model.head()
    hidden = gather_hidden(model.model(batch.input_ids, lengths=batch.lengths), batch)
    targets = paddle.to_tensor(batch.target_ids)
    options = {"transposed": transposed, "temperature": temperature, "with_entropy": with_entropy}
    group = model.placement.tensor
    if group.size == 1:
        return head_logprobs(hidden, weight, targets, **options)
    return split_logprobs(hidden, weight, targets, share=VocabularyShare(group, model.first_token), **options)


def token_values(model: Any, batch: TokenBatch) -> paddle.Tensor:
    """Return the values [n, R] (float32) of a ScoreModel before each target token is emitted; zero elsewhere."""
    hidden = gather_hidden(model.model(batch.input_ids, lengths=batch.lengths), batch)
    return to_grid(model.token_scores(hidden), batch)


def to_grid(flat: paddle.Tensor, batch: TokenBatch) -> paddle.Tensor:
    """Return ``flat`` [T] in the response grid [n, R] of ``batch``, zero elsewhere; carries gradients."""
    shape = [batch.input_ids.shape[0], batch.response_width]
    places = paddle.to_tensor(batch.target_rows * batch.response_width + batch.target_columns)
    return paddle.scatter_nd(places.unsqueeze(-1), flat, [shape[0] * shape[1]]).reshape(shape)
