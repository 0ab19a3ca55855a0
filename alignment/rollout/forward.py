"""Compute log-probs, entropies, values and scores of a rollout in micro-batches, without gradients."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import repeat
from typing import Any

import numpy as np

from alignment.models.decoder.logprobs import policy_logprobs, to_grid, token_values
from alignment.parallel.runner import ModelRunner
from alignment.records import Rollout, TokenBatch
from alignment.rollout.minibatches import gather_grids, split_rows, token_batch


def measure_logprobs(
    runner: ModelRunner,
    rollout: Rollout,
    *,
    rows_per_batch: int,
    temperature: float,
    with_entropy: bool = False,
    rows: np.ndarray | None = None,
    replays: bool = False,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return (log-probs [n, R], entropies [n, R] or None) of the response tokens of ``rows`` [n] at ``temperature``.

    None: of all rows. With ``replays`` a model that can gives tokens to the experts that the rollout chose.
    """
    batches = _batches(rollout if replays else _without_experts(rollout), rows_per_batch, rows)
    read = partial(_read_logprobs, temperature=temperature, with_entropy=with_entropy)
    grids = runner.forward(batches, read)
    logprobs = gather_grids([g[0] for g in grids], rollout.response_width)
    return logprobs, gather_grids([g[1] for g in grids], rollout.response_width) if with_entropy else None


def measure_values(runner: ModelRunner, rollout: Rollout, *, rows_per_batch: int) -> np.ndarray:
    """Return the critic's values [N, R]; index t is the value of the state before response token t."""
    grids = runner.forward(_batches(_without_experts(rollout), rows_per_batch), token_values)
    return gather_grids(grids, rollout.response_width)


def measure_scores(
    runner: ModelRunner, sequences: Sequence[np.ndarray], starts: Sequence[int] | None = None, *, rows_per_batch: int
) -> np.ndarray:
    """Return the reward model's score [N] of each token sequence.

    ``starts`` [N], the position of each answer's first token, is needed by a model that averages over the answer. Equal
    sequences have the very same score, although a product may round a row by its place in the batch.
    """
    pieces = split_rows(np.arange(len(sequences)), rows_per_batch)
    batches = [score_batch([sequences[i] for i in rows], starts and [starts[i] for i in rows]) for rows in pieces]
    return np.concatenate(runner.forward(batches, read_end_scores))[_first_equal(sequences, starts)]


def _first_equal(sequences: Sequence[np.ndarray], starts: Sequence[int] | None) -> np.ndarray:
    """Return the first row [N] with the tokens, and the start of the answer, of each row."""
    known: dict[tuple[bytes, int], int] = {}
    contents = zip((sequence.tobytes() for sequence in sequences), starts or repeat(0), strict=False)
    return np.array([known.setdefault(content, row) for row, content in enumerate(contents)], np.int64)


def score_batch(sequences: Sequence[np.ndarray], starts: Sequence[int] | None) -> TokenBatch:
    """Return rows for a score model; for ``starts`` see ``measure_scores``."""
    fields = {} if starts is None else {"answer_starts": np.asarray(starts, np.int64)}
    return TokenBatch.build(sequences, [np.empty(0, np.int64)] * len(sequences), fields)


def read_end_scores(model: Any, batch: TokenBatch) -> Any:
    """Return the raw score [n] of each row."""
    return model.read_end_scores(batch)


def _read_logprobs(model: Any, batch: TokenBatch, *, temperature: float, with_entropy: bool) -> Any:
    logprobs, entropy = policy_logprobs(model, batch, temperature=temperature, with_entropy=with_entropy)
    grid = to_grid(logprobs, batch)
    return (grid, to_grid(entropy, batch)) if with_entropy else (grid,)


def _without_experts(rollout: Rollout) -> Rollout:
    return rollout.with_fields(routed_experts=()) if rollout.routed_experts else rollout


def _batches(rollout: Rollout, rows_per_batch: int, rows: np.ndarray | None = None) -> list[TokenBatch]:
    wanted = np.arange(rollout.num_rows) if rows is None else rows
    return [token_batch(rollout, part) for part in split_rows(wanted, rows_per_batch)]
