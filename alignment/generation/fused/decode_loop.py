"""The decode loop: plan, compute and draw until every sequence has finished."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

import numpy as np

from alignment.generation.fused.recorded_experts import ExpertsBySequence
from alignment.generation.fused.scheduler import Scheduler, Step
from alignment.generation.fused.sequences import Sequence
from alignment.generation.fused.slots import Slots
from alignment.records import Completion

Progress = Callable[[int], None]
"""Called after every pass with the number of tokens added to answers."""


class RowModel(Protocol):
    """A model with a paged key-value cache and a forward pass over rows."""

    def copy_block(self, source: int, target: int) -> None:
        """Copy the keys and values of block ``source`` to ``target``."""
        ...

    def forward(self, step: Step, block_tables: np.ndarray, *, chosen: np.ndarray | None = None) -> np.ndarray:
        """Compute the rows of ``step`` and return float32 logits [L, V], valid until the next call.

        Token s of a slot is in block ``block_tables[slot, s // block_tokens]``. The experts of each row are written to
        ``chosen`` [R, layers, k] uint16, as far as they are chosen (None: nowhere; always so without experts).
        """
        ...


class SlotDrawer(Protocol):
    """Draws tokens from logits, and tracks what it needs of each slot's history."""

    def enter(self, sequences: Iterable[Sequence]) -> None:
        """Register ``sequences``, which have just got their slots, with their tokens ``sequence.tokens``."""
        ...

    def draw(self, logits: np.ndarray, step: Step, slots: Slots) -> tuple[np.ndarray, np.ndarray]:
        """Return (tokens [L] int64, log-probs [L] float32) for logits [L, V] of ``step.drawn_slots``."""
        ...


def run(
    scheduler: Scheduler,
    model: RowModel,
    drawer: SlotDrawer,
    *,
    progress: Progress | None = None,
    record: ExpertsBySequence | None = None,
) -> list[Completion]:
    """Decode until every sequence of ``scheduler`` has finished, and return the answers in order of arrival.

    With ``record`` they say which experts their tokens were given to.
    """
    nothing = np.empty(0, np.int64), np.empty(0, np.float32)
    while not scheduler.done:
        step = scheduler.plan()
        if step.entered:
            drawer.enter(step.entered)
        for source, target in step.copies:
            model.copy_block(source, target)
        logits = _compute(model, step, scheduler.slots.block_tables, record)
        num_drawn = len(step.drawn_slots)
        num_added = scheduler.add(*(drawer.draw(logits, step, scheduler.slots) if num_drawn else nothing))
        if progress is not None:
            progress(num_added)
    completions = scheduler.completions()
    return completions if record is None else record.complete(completions)


def _compute(model: RowModel, step: Step, block_tables: np.ndarray, record: ExpertsBySequence | None) -> np.ndarray:
    """Return the logits [L, V] of ``step``."""
    if record is None:
        return model.forward(step, block_tables)
    chosen = record.room(step)
    logits = model.forward(step, block_tables, chosen=chosen)
    record.add(step, chosen)
    return logits
