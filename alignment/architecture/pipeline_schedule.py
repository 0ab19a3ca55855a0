"""The schedule of a pipeline: the order of passes and messages, a pure function with the same result on every rank.

The model is split into ``stages * chunks`` pieces; the piece at ``position`` is on stage ``position % stages``. A
timeline is simulated in which a forward pass costs 1 and a backward pass 2, every stage alternates one forward and one
backward pass as in PipeDream-Flush and Megatron-LM (interleaved with several chunks), and a message is delivered when
both of its ends are between two passes. The events in order of time are the schedule. Each rank processes its own
events in that order. Both ends of the first unfinished event are always waiting for it, so blocking messages cannot
deadlock.

Paper: arXiv 2104.04473 (1F1B and its interleaved form).
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
    """The transfer of an activation (``source < target``) or gradient of micro-batch ``batch`` to a neighbour."""

    source: int
    target: int
    batch: int


Event = Compute | StageTransfer


class _Work(NamedTuple):
    """A pass, the message it needs, and the message it sends."""

    event: Compute
    needs: StageTransfer | None
    gives: StageTransfer | None


@dataclass
class _StageWork:
    """The remaining work of a stage; each list is in order."""

    forwards: list[_Work]
    backwards: list[_Work]
    limit: int
    """Maximum number of activations it may hold."""
    free_at: int = 0
    held: int = 0
    running: _Work | None = None
    received: set[StageTransfer] = field(default_factory=set)
    done: set[Compute] = field(default_factory=set)

    def choose(self) -> _Work | None:
        """Take the next pass that can run: a forward if there is room for its activation, else a backward."""
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
    """Return the events of all stages, in one order; ``with_backward`` False: forward passes only."""
    assert stages > 1, "one stage needs no schedule"
    plans = [_plan_stage(stage, stages, chunks, num_batches, with_backward) for stage in range(stages)]
    return tuple(_simulate(plans))


def events_of(schedule: Sequence[Event], stage: int, stages: int) -> list[Event]:
    """Return the events of ``schedule`` that involve ``stage``."""
    return [event for event in schedule if stage in {position % stages for position in positions_of(event)}]


def positions_of(event: Event) -> tuple[int, ...]:
    """Return the positions of the pieces that ``event`` involves."""
    return (event.position,) if isinstance(event, Compute) else (event.source, event.target)


def _plan_stage(stage: int, stages: int, chunks: int, num_batches: int, with_backward: bool) -> _StageWork:
    """Return the passes of one stage: micro-batches in groups, each of which goes through one chunk after another.

    A group has at least as many micro-batches as there are stages, so that the first one is back from the last stage
    before the next chunk needs it.
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
    # With several chunks a stage runs further ahead, so that each micro-batch returns just when it is needed.
    limit = distance + 1 if chunks == 1 else 2 * distance + (chunks - 1) * max(stages, len(groups[0])) + 1
    return _StageWork(forwards, backwards, limit)


def _simulate(stages: list[_StageWork]) -> list[Event]:
    """Return the events in order of time.

    This terminates: forward and backward passes are each in the same order on all stages, and a stage that waits for
    the first unfinished backward pass has room for every forward pass that it depends on.
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
    """Finish the passes that end by ``clock``; return the messages they send."""
    given = []
    for stage in stages:
        if stage.running is not None and stage.free_at <= clock:
            stage.done.add(stage.running.event)
            given += [stage.running.gives] if stage.running.gives else []
            stage.running = None
    return given
