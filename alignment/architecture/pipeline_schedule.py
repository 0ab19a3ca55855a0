"""In what order the stages of a pipeline work and talk: pure, the same on every rank.

The model is cut into ``stages * chunks`` pieces; the piece at ``position`` lives on stage ``position % stages``. A
timeline is simulated in which a forward pass costs 1 and a backward pass 2, every stage works one forward, one backward
as in PipeDream-Flush and Megatron-LM (interleaved with several chunks), and a message passes when both of its ends are
between two passes. What happens in it, in the order in which it happens, is the schedule. Each rank goes through its
own events in that order; the first event that has not happened always has both of its ends waiting for it, so messages
that block until they are taken cannot lead to a deadlock.

Papers: arXiv 2104.04473 (1F1B and its interleaved form).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import NamedTuple

from alignment.architecture.parts import even_cut

_FORWARD_COST, _BACKWARD_COST = 1, 2


@dataclass(frozen=True, slots=True)
class Compute:
    """One pass of micro-batch ``batch`` through the piece at ``position``."""

    position: int
    batch: int
    backward: bool


@dataclass(frozen=True, slots=True)
class StageTransfer:
    """The activation (``source < target``) or gradient of micro-batch ``batch`` goes to a neighbouring piece."""

    source: int
    target: int
    batch: int


Event = Compute | StageTransfer


class _Work(NamedTuple):
    """A pass and what it needs from another stage."""

    event: Compute
    needs: StageTransfer | None
    gives: StageTransfer | None


@dataclass
class _StageWork:
    """What a stage has left to do, each list in the order in which it has to be done."""

    forwards: list[_Work]
    backwards: list[_Work]
    limit: int
    """Activations it may hold."""
    free_at: int = 0
    held: int = 0
    running: _Work | None = None
    received: set[StageTransfer] = field(default_factory=set)
    done: set[Compute] = field(default_factory=set)

    def choose(self) -> _Work | None:
        """Take the next pass that can run: a forward while there is room for its activation, else a backward."""
        if self.forwards and self.held < self.limit and self._is_ready(self.forwards[0]):
            self.held += 1
            return self.forwards.pop(0)
        if self.backwards and self._is_ready(self.backwards[0]):
            self.held -= 1
            return self.backwards.pop(0)
        return None

    def _is_ready(self, work: _Work) -> bool:
        event = work.event
        if event.backward and replace(event, backward=False) not in self.done:
            return False
        return work.needs is None or work.needs in self.received


@lru_cache(maxsize=64)
def build_schedule(stages: int, chunks: int, num_batches: int, *, with_backward: bool) -> tuple[Event, ...]:
    """Return everything that happens in all stages, in one order.

    Any number of micro-batches will do; without ``with_backward`` there are forward passes only.
    """
    assert stages > 1, "one stage needs no schedule"
    plans = [_plan_stage(stage, stages, chunks, num_batches, with_backward) for stage in range(stages)]
    return tuple(_simulate(plans))


def events_of(schedule: Sequence[Event], stage: int, stages: int) -> list[Event]:
    """Return the events of ``schedule`` in which ``stage`` takes part."""
    return [event for event in schedule if stage in {position % stages for position in positions_of(event)}]


def positions_of(event: Event) -> tuple[int, ...]:
    """Return the positions of the pieces that take part in ``event``."""
    return (event.position,) if isinstance(event, Compute) else (event.source, event.target)


def _plan_stage(stage: int, stages: int, chunks: int, num_batches: int, with_backward: bool) -> _StageWork:
    """Return the passes of one stage: micro-batches in groups, each group through chunk after chunk.

    A group has at least as many micro-batches as there are stages, so that the first of them comes back from the last
    stage before the next chunk waits for it.
    """
    last = stages * chunks - 1
    num_groups = max(1, num_batches // stages)
    groups = [range(*even_cut(num_batches, num_groups, index)) for index in range(num_groups)]
    positions = range(stage, last + 1, stages)

    def work(position: int, batch: int, backward: bool) -> _Work:
        before, after = (position + 1, position - 1) if backward else (position - 1, position + 1)
        needs = StageTransfer(before, position, batch) if 0 <= before <= last else None
        gives = StageTransfer(position, after, batch) if 0 <= after <= last else None
        return _Work(Compute(position, batch, backward), needs, gives)

    forwards = [work(position, batch, False) for group in groups for position in positions for batch in group]
    if not with_backward:
        return _StageWork(forwards, [], len(forwards))
    backwards = [work(position, batch, True) for group in groups for position in positions[::-1] for batch in group]
    distance = stages - 1 - stage
    # With several chunks a stage starts earlier, so that each micro-batch returns just when it is needed.
    limit = distance + 1 if chunks == 1 else 2 * distance + (chunks - 1) * max(stages, len(groups[0])) + 1
    return _StageWork(forwards, backwards, limit)


def _simulate(stages: list[_StageWork]) -> list[Event]:
    """Return what happens, in order.

    It always comes to an end: passes of either kind are in the same order on all stages, and a stage that waits for
    the first backward pass nobody has done yet has room for every forward pass that one needs.
    """
    events: list[Event] = []
    waiting: list[StageTransfer] = []
    clock = 0
    while any(stage.forwards or stage.backwards or stage.running for stage in stages):
        waiting.extend(_finish(stages, clock))
        for message in list(waiting):
            ends = [stages[position % len(stages)] for position in (message.source, message.target)]
            if all(stage.running is None for stage in ends):
                ends[1].received.add(message)
                waiting.remove(message)
                events.append(message)
        for stage in stages:
            if stage.running is None and (work := stage.choose()) is not None:
                stage.running = work
                stage.free_at = clock + (_BACKWARD_COST if work.event.backward else _FORWARD_COST)
                events.append(work.event)
        clock = min((stage.free_at for stage in stages if stage.running), default=clock)
    return events


def _finish(stages: list[_StageWork], clock: int) -> list[StageTransfer]:
    """End the passes that are over by ``clock``; return the messages they give."""
    given = []
    for stage in stages:
        if stage.running is not None and stage.free_at <= clock:
            stage.done.add(stage.running.event)
            given += [stage.running.gives] if stage.running.gives else []
            stage.running = None
    return given
