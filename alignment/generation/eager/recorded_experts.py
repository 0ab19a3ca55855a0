"""The experts that the tokens of some rows are given to, for answers that are learned from with the same ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np

from alignment.architecture.experts import Experts
from alignment.parallel.comms.group import Group
from alignment.records import NO_EXPERT, Completion

NoteLayer = Callable[[int, np.ndarray], None]
"""Is told the number of a layer and its choices [M, k]."""


class ExpertsByRow:
    """The choices of B rows by position; a pipeline stage knows those of its layers."""

    def __init__(self, experts: Experts, *, num_rows: int, num_layers: int, longest: int) -> None:
        """``longest``: the most tokens of a row."""
        shape = (num_rows, longest, num_layers, experts.top_k)
        self._nothing = NO_EXPERT[experts.number_type]
        self._found = np.full(shape, self._nothing, experts.number_type)

    def at(self, rows: np.ndarray, positions: np.ndarray) -> NoteLayer:
        """Return what keeps the choices of tokens at ``positions`` [M] of ``rows`` [M]."""
        return partial(self._keep, rows, positions)

    def _keep(self, rows: np.ndarray, positions: np.ndarray, layer: int, chosen: np.ndarray) -> None:
        self._found[rows, positions, layer] = chosen

    def complete(self, completions: list[Completion], prompts: list[np.ndarray], stages: Group) -> list[Completion]:
        """Return ``completions`` with the choices of all ``stages``; the last token of an answer has none."""
        # What a stage does not know is the largest number.
        everything = np.minimum.reduce(stages.gather_objects(self._found, "experts of tokens"))
        ends = [len(p) + len(c.token_ids) for p, c in zip(prompts, completions, strict=True)]
        found = [row[:end].copy() for row, end in zip(everything, ends, strict=True)]
        for row in found:
            row[-1] = self._nothing
        return [replace(c, routed_experts=row) for c, row in zip(completions, found, strict=True)]
