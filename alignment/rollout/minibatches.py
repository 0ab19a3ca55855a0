"""Build micro-batches from the rows of a rollout, and choose the order of rows for updates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from alignment.records import NO_EXPERT, Rollout, TokenBatch


def token_batch(
    rollout: Rollout, rows: np.ndarray, fields: Mapping[str, np.ndarray] | None = None, *, pad_token_id: int = 0
) -> TokenBatch:
    """Return ``rows`` [n] of ``rollout`` as one micro-batch whose targets are the response tokens, with its experts.

    ``fields`` are arrays [N] or [N, R]; the latter are cut to the micro-batch's response width.
    """
    prompts, responses = ([parts[i] for i in rows.tolist()] for parts in (rollout.prompts, rollout.responses))
    sequences = [np.concatenate(pair) for pair in zip(prompts, responses, strict=True)]
    positions = np.arange(max(map(len, sequences)))
    targets = [positions[len(p) : len(s)] for p, s in zip(prompts, sequences, strict=True)]
    width = max(map(len, responses))
    cut = {name: (value[rows, :width] if value.ndim == 2 else value[rows]) for name, value in (fields or {}).items()}
    batch = TokenBatch.build(sequences, targets, cut, pad_token_id=pad_token_id)
    return replace(batch, routed_experts=_experts(rollout, rows, batch.input_ids.shape[1]))


def _experts(rollout: Rollout, rows: np.ndarray, width: int) -> np.ndarray | None:
    """Return the experts [n, ``width``, layers, k] of ``rows`` [n], None if they were not recorded."""
    if not rollout.routed_experts:
        return None
    first = rollout.routed_experts[0]
    experts = np.full((len(rows), width, *first.shape[1:]), NO_EXPERT[first.dtype.name], first.dtype)
    for target, row in zip(experts, rows, strict=True):
        found = rollout.routed_experts[row]
        target[: len(found)] = found
    return experts


def split_rows(rows: np.ndarray, size: int) -> list[np.ndarray]:
    """Split ``rows`` into consecutive pieces of ``size``; the last may be smaller."""
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def epoch_orders(num_rows: int, *, num_epochs: int, seed: Sequence[int]) -> Iterator[np.ndarray]:
    """Yield a permutation of the rows for each epoch over the rollout, determined by ``seed``."""
    for epoch in range(num_epochs):
        yield np.random.default_rng([*seed, epoch]).permutation(num_rows)


def gather_grids(grids: Sequence[np.ndarray], width: int) -> np.ndarray:
    """Stack micro-batch grids [n_i, R_i] into one zero-padded array [sum n_i, ``width``]."""
    stacked = np.zeros((sum(g.shape[0] for g in grids), width), np.float32)
    start = 0
    for grid in grids:
        stacked[start : start + grid.shape[0], : grid.shape[1]] = grid
        start += grid.shape[0]
    return stacked
