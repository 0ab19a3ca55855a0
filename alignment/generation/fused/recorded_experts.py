"""The experts that each token of a call is given to, for answers that are learned from with the same ones."""

from __future__ import annotations

from collections.abc import Sequence as Several
from dataclasses import replace

import numpy as np

from alignment.architecture.experts import Experts
from alignment.generation.fused.scheduler import Step
from alignment.generation.fused.sequences import Prefix, Sequence
from alignment.records import NO_EXPERT, Completion

_OF_KERNELS = np.dtype(np.uint16)


class ExpertsBySequence:
    """Collects the choices of all passes by sequence and position; those of a shared prompt stand once.

    A token that is computed again (after a preemption, or in the place of a wrong draft) overwrites what was there, but
    for a last layer that is not computed then: those of an answer's tokens were, when each was the newest.
    """

    def __init__(self, sequences: Several[Sequence], experts: Experts, *, num_layers: int, num_slots: int) -> None:
        """Reserve layers * k numbers for each token that ``sequences`` may have."""
        self._sequences = sequences
        self._rows = {sequence.index: row for row, sequence in enumerate(sequences)}
        homes: dict[Prefix, int] = {}
        self._homes = np.array([homes.setdefault(s.prefix, row) for row, s in enumerate(sequences)])
        longest = max(len(sequence.prompt) + sequence.limit for sequence in sequences)
        self._shape = (num_layers, experts.top_k)
        self._nothing = NO_EXPERT[experts.number_type]
        self._found = np.full((len(sequences), longest, *self._shape), self._nothing, experts.number_type)
        self._row_of = np.zeros(num_slots, np.int64)
        self._prefix_of = np.zeros(num_slots, np.int64)

    def room(self, step: Step) -> np.ndarray:
        """Return where the kernels write the choices of a pass, [R, layers, k] uint16."""
        for sequence in step.entered:
            self._row_of[sequence.slot] = self._rows[sequence.index]
            self._prefix_of[sequence.slot] = sequence.prefix.num_tokens
        return np.full((len(step.tokens), *self._shape), NO_EXPERT[_OF_KERNELS.name], _OF_KERNELS)

    def add(self, step: Step, chosen: np.ndarray) -> None:
        """Keep the choices [R, layers, k] of a pass; narrowing them maps one ``NO_EXPERT`` to the other."""
        rows = self._row_of[step.slots]
        is_shared = step.positions < self._prefix_of[step.slots]
        places = np.where(is_shared, self._homes[rows], rows), step.positions
        chosen = chosen.astype(self._found.dtype)
        self._found[places] = np.where(chosen == self._nothing, self._found[places], chosen)

    def complete(self, completions: Several[Completion]) -> list[Completion]:
        """Return ``completions`` with their choices; the last token of an answer was not computed and has none."""
        columns = zip(self._sequences, self._homes, completions, strict=True)
        return [
            replace(completion, routed_experts=self._of(row, sequence, home, len(completion.token_ids)))
            for row, (sequence, home, completion) in enumerate(columns)
        ]

    def _of(self, row: int, sequence: Sequence, home: int, num_answered: int) -> np.ndarray:
        end, shared = len(sequence.prompt) + num_answered, sequence.prefix.num_tokens
        found = np.concatenate([self._found[home, :shared], self._found[row, shared:end]])
        found[-1] = self._nothing
        return found
