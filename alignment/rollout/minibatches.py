"""Build micro-batches from the rows of a rollout, and choose the order of rows for updates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from alignment.records import NO_EXPERT, Rollout, TokenBatch


def token_batch(rollout: Rollout, rows: np.ndarray, fields: Mapping[str, np.ndarray] | None = None) -> TokenBatch:
    """Return ``rows`` [n] of ``rollout`` as one micro-batch whose targets are the response tokens, with its experts.

    ``fields`` are arrays [N] or [N, R]; the latter are cut to the micro-batch's response width.
    """
    starts, counts = rollout.prompt_lengths[rows], rollout.response_lengths[rows]
    lengths, width = starts + counts, int(counts.max())
    target_rows, target_columns = np.nonzero(rollout.response_tokens[rows])
    input_ids = rollout.token_grid[rows, : lengths.max()]
    return TokenBatch(
        input_ids=input_ids,
        lengths=lengths,
        target_rows=target_rows,
        target_positions=starts[target_rows] + target_columns,
        target_columns=target_columns,
        response_width=width,
        fields={name: v[rows, :width] if v.ndim == 2 else v[rows] for name, v in (fields or {}).items()},
        routed_experts=_experts(rollout, rows, input_ids.shape[1]),
    )


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
