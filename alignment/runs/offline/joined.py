"""Passes without gradients over several micro-batches at once.

Nothing is kept for a backward pass, so a pass over as many micro-batches as the model has layers needs no more memory
than the update of one, and larger matrix products and fewer calls take less time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from alignment.architecture.parts import even_cut
from alignment.parallel.runner import ModelRunner
from alignment.records import TokenBatch
from alignment.runs.dataset_run import micro_batches_of
from alignment.runs.launch import Launch

MOST_JOINED = 4
"""Micro-batches that are joined at most."""


class Joining(NamedTuple):
    """How micro-batches are joined."""

    rows: int
    """The most rows of a joined micro-batch; one that has more already stays as it is."""
    ranks: int = 1
    """Processes with different rows; each gets as many joined micro-batches as the others, if there are enough."""


NOT_JOINED = Joining(0)


def joining_of(launch: Launch, model: Any, rows_per_sample: int) -> Joining:
    """Return how far micro-batches of a run are joined for ``model`` and others of its size.

    They stay as they are where pipeline stages need several of them, where a token budget says how large they are, and
    where the update itself keeps little because it recomputes.
    """
    cut = micro_batches_of(launch, rows_per_sample)
    if launch.topology.pipeline.size > 1 or launch.parsed.training.recompute or cut.max_tokens is not None:
        return NOT_JOINED
    return Joining(cut.rows * rows_per_sample * min(MOST_JOINED, model.config.num_hidden_layers), cut.ranks)


def forward_joined(
    runner: ModelRunner, batches: Sequence[TokenBatch], read: Callable[[Any, TokenBatch], Any], joining: Joining
) -> list[np.ndarray]:
    """Return ``runner.forward(batches, read)`` for a ``read`` that gives one number per row, whatever the others are.

    Fields are not passed on: ``read`` must not need them.
    """
    groups = _groups(batches, joining)
    if len(groups) == len(batches):
        return runner.forward(batches, read)
    found = np.concatenate(runner.forward([_join(group) for group in groups], read))
    return np.split(found, np.cumsum([batch.num_rows for batch in batches])[:-1])


def _groups(batches: Sequence[TokenBatch], joining: Joining) -> list[Sequence[TokenBatch]]:
    for number in range(joining.ranks, len(batches), joining.ranks):
        groups = [batches[slice(*even_cut(len(batches), number, i))] for i in range(number)]
        if all(sum(batch.num_rows for batch in group) <= joining.rows for group in groups):
            return groups
    return [[batch] for batch in batches]


def _join(batches: Sequence[TokenBatch]) -> TokenBatch:
    rows = [ids[:length] for batch in batches for ids, length in zip(batch.input_ids, batch.lengths, strict=True)]
    counts = np.concatenate([np.bincount(batch.target_rows, minlength=batch.num_rows) for batch in batches])
    positions = np.concatenate([batch.target_positions for batch in batches])
    return TokenBatch.build(rows, np.split(positions, np.cumsum(counts)[:-1]))
