"""Reduce gradients from the backward pass to the rows that each process updates.

Gradients are summed over micro-batches and over all processes with other data, in float32 at least: adding a hundred
bfloat16 gradients in bfloat16 would lose the small ones.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import paddle

from alignment.parallel.comms.group import ALONE, Group
from alignment.parallel.sharding.buckets import RowBucket, make_buckets
from alignment.parallel.sharding.message_cuts import cut_sections
from alignment.parallel.sharding.units import Unit
from alignment.parallel.topology import Topology

_IN_FLIGHT = 2
"""How many reductions may overlap with the backward pass; each holds a buffer."""


def wide_dtype(tensor: paddle.Tensor) -> str:
    """Return the dtype in which ``tensor`` is summed and updated: float64 for float64, else float32."""
    return "float64" if tensor.dtype == paddle.float64 else "float32"


class GradientReducer:
    """Takes every gradient out of the model as it is computed and provides the sums of this process's rows.

    With ``during_backward`` a section of the model is reduced as soon as its gradients are complete, once per
    micro-batch, so that gradients of the whole model never exist at once; otherwise all are reduced in ``finish``. A
    section is a run of whole units. Units follow each other in a fixed order, so all processes send messages in the
    same order; within a unit the order of gradients may depend on the data.
    """

    def __init__(
        self,
        parameters: Mapping[str, paddle.Tensor],
        units: Sequence[Unit],
        *,
        topology: Topology,
        is_cut: bool,
        during_backward: bool,
        arrived: Callable[[str], None] | None = None,
    ) -> None:
        """``is_cut``: each process of ``topology.sharding`` gets its rows; otherwise all get everything.

        ``arrived`` is called with the name of each gradient taken.
        """
        self._parameters = dict(parameters)
        self._scatter: Group = topology.sharding if is_cut else ALONE
        self._total: Group = topology.data if is_cut else topology.batch
        self._batch = topology.batch
        self._during_backward = during_backward
        self._arrived = arrived
        self._sections = _make_sections(self._parameters, units, pieces=self._scatter.size)
        self._section_of = {name: section for section in self._sections for name in section.names}
        self._seen: set[str] = set()
        self._pending: dict[str, paddle.Tensor] = {}
        self._sums: dict[RowBucket, paddle.Tensor] = {}
        self._in_flight: deque[tuple[RowBucket, Callable[[], paddle.Tensor]]] = deque()
        for name, parameter in self._parameters.items():
            parameter._register_backward_hook(partial(self._take, name))

    @property
    def buckets(self) -> list[RowBucket]:
        """All buckets, in the order in which their gradients are computed."""
        return [bucket for section in self._sections for bucket in section.buckets]

    def held(self) -> Iterator[tuple[str, paddle.Tensor]]:
        """Yield the gradients, and sums of gradients, held until ``finish``."""
        yield from self._pending.items()
        for bucket, piece in self._sums.items():
            yield f"sum of {next(iter(bucket.shapes))} and others", piece

    @paddle.no_grad()
    def _take(self, name: str, *_: object) -> None:
        """Take the gradient of ``name``; called after the backward pass has added to it."""
        parameter = self._parameters[name]
        if parameter.grad is None:
            return
        # unsqueeze makes a separate view: clearing the parameter's gradient would empty a plain reference too.
        gradient = parameter.grad.detach().unsqueeze(0).astype(wide_dtype(parameter))
        parameter.clear_gradient(False)
        # Not in place: the memory may be shared with another gradient.
        self._pending[name] = self._pending[name] + gradient if name in self._pending else gradient
        self._seen.add(name)
        if self._arrived is not None:
            self._arrived(name)
        section = self._section_of[name]
        if self._during_backward and all(other in self._pending for other in section.names):
            for bucket in section.buckets:
                self._start(bucket)

    def _start(self, bucket: RowBucket) -> None:
        """Start reducing the pending gradients of ``bucket``."""
        found = {name: self._pending.pop(name) for name in bucket.shapes if name in self._pending}
        packed = bucket.pack(found, wide_dtype(self._parameters[next(iter(bucket.shapes))]))
        del found
        self._in_flight.append((bucket, self._scatter.start_reduce_scatter(packed, "gradients")))
        if len(self._in_flight) > _IN_FLIGHT:
            self._land()

    def _land(self) -> None:
        bucket, wait = self._in_flight.popleft()
        piece = wait()
        self._sums[bucket] = self._sums[bucket].add_(piece) if bucket in self._sums else piece

    @paddle.no_grad()
    def finish(self) -> dict[str, paddle.Tensor]:
        """Return the gradients of this process's rows and reset; parameters without a gradient are left out."""
        seen, pending = self._agree()
        for bucket in self.buckets:
            if any(name in pending for name in bucket.shapes):
                self._start(bucket)
        while self._in_flight:
            self._land()
        rows: dict[str, paddle.Tensor] = {}
        for bucket in self.buckets:
            if bucket in self._sums:
                self._total.sum_(self._sums[bucket], "gradients")
                rows |= bucket.split(self._sums.pop(bucket), self._scatter.index)
        self._seen.clear()
        return {name: gradient for name, gradient in rows.items() if name in seen}

    def clear(self) -> None:
        """Discard everything collected so far."""
        while self._in_flight:
            self._land()
        self._seen.clear()
        self._pending.clear()
        self._sums.clear()

    def _agree(self) -> tuple[set[str], set[str]]:
        """Return the names that had a gradient, and those not reduced yet, on any process."""
        if self._batch.size == 1:
            return set(self._seen), set(self._pending)
        names = list(self._parameters)
        flags = paddle.to_tensor([[float(name in found) for name in names] for found in (self._seen, self._pending)])
        flags = self._batch.max_(flags, "which gradients there are").numpy()
        seen, pending = ({name for name, flag in zip(names, row, strict=True) if flag} for row in flags)
        return seen, pending


class _Section:
    """Units whose gradients are reduced together."""

    def __init__(self, parameters: Mapping[str, paddle.Tensor], *, pieces: int) -> None:
        self.names = tuple(parameters)
        self.buckets = make_buckets(parameters, pieces=pieces)


def _make_sections(parameters: Mapping[str, paddle.Tensor], units: Sequence[Unit], *, pieces: int) -> list[_Section]:
    """Return sections of at least a bucket's size, starting from the model's last unit."""
    left = dict(parameters)
    own = [{name: left.pop(name) for name in unit.names if name in left} for unit in reversed(units)]
    sections = cut_sections([unit for unit in own if unit], _num_bytes)
    return [_Section({k: v for unit in section for k, v in unit.items()}, pieces=pieces) for section in sections]


def _num_bytes(unit: Mapping[str, paddle.Tensor]) -> int:
    return sum(int(parameter.size) * parameter.element_size() for parameter in unit.values())
