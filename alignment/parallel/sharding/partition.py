"""Partition the update of a model: reduce gradients, update this process's rows, and publish the new weights.

Stage 0 replicates everything. Stage 1 shards what the optimizer updates (and so its moments) by rows, stage 2 also the
summed gradients, stage 3 also the weights. Tensors are split along the first axis of what the process holds under
tensor and pipeline parallelism, so every piece is a rectangle of the whole tensor.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager

import paddle
from paddle import nn

from alignment.architecture.parts import Part, even_cut
from alignment.parallel.comms.group import ALONE
from alignment.parallel.sharding.buckets import make_buckets
from alignment.parallel.sharding.copies import GradientCopies, sum_of_squares
from alignment.parallel.sharding.gradients import GradientReducer, wide_dtype
from alignment.parallel.sharding.stage3 import SlicedWeights, new_parameter
from alignment.parallel.sharding.units import find_units
from alignment.parallel.topology import Topology

MAX_STAGE = 3


class ParameterShards:
    """The trainable parameters of one model in a layout.

    ``parameters`` (by canonical name) are what this process's optimizer updates, and ``parts`` the rectangles of the
    whole tensors that they are. They are float32 (float64 for a float64 model); ``masters`` names those that are master
    copies of half-precision weights. A parameter of which this process has no rows is left out.

    After the backward passes call ``finish_gradients``, ``squared_norm``, the optimizer's step and ``publish``, each
    on all processes.
    """

    def __init__(
        self,
        model: nn.Layer,
        topology: Topology,
        *,
        stage: int,
        part_of: Callable[[str], Part],
        is_partial: Callable[[str], bool] | None = None,
        tied: Collection[str] = (),
        used_after: Mapping[str, nn.Layer] | None = None,
    ) -> None:
        """``part_of`` gives the part of a tensor that this process's model holds, by name.

        ``is_partial`` says whether a gradient must be summed over tensor-parallel processes. The gradients of ``tied``
        parameters are summed over the first and last stage. For ``used_after`` see ``SlicedWeights``.
        """
        assert 0 <= stage <= MAX_STAGE, stage
        self.topology = topology
        self.stage = stage if topology.sharding.size > 1 else 0
        self._model = model
        self._group = topology.sharding if self.stage else ALONE
        self._trained = {name: p for name, p in model.named_parameters() if not p.stop_gradient}
        self._sliced: SlicedWeights | None = None
        if self.stage == MAX_STAGE:
            self._sliced = SlicedWeights(model, self._group, part_of=part_of, used_after=used_after)
        held = {name: part_of(name) for name in self._trained}
        self.parts = {name: rows for name, part in held.items() if (rows := self._rows_of(part)).size}
        self.masters = frozenset(name for name in self.parts if _is_half(self._trained[name]))
        self.parameters = {name: self._make_updated(name) for name in self.parts}
        self._copies = GradientCopies(topology, held, is_partial=is_partial, tied=tied)
        self._reducer = GradientReducer(
            self._trained,
            find_units(model),
            topology=topology,
            is_cut=self.stage > 0,
            during_backward=self.stage > 1,
            arrived=None if self._sliced is None else self._sliced.arrived,
        )

    def _rows_of(self, part: Part) -> Part:
        return part.along(0, *even_cut(part.extent[0], self._group.size, self._group.index))

    def _make_updated(self, name: str) -> paddle.Tensor:
        """Return what the optimizer updates for ``name``: the weight itself or a copy of this process's rows."""
        weight = self._trained[name] if self._sliced is None else self._sliced.slices[name]
        if self._is_weight(name):
            return weight
        if self._sliced is None:
            start, stop = even_cut(weight.shape[0], self._group.size, self._group.index)
            weight = weight[start:stop]
        return new_parameter(weight.detach().astype(wide_dtype(weight)).clone())

    def _is_weight(self, name: str) -> bool:
        """Return whether the optimizer updates the model's own memory."""
        return name not in self.masters and self.stage in (0, MAX_STAGE)

    @paddle.no_grad()
    def finish_gradients(self) -> None:
        """Give every parameter its gradient, summed over all processes and micro-batches since the last step."""
        rows = self._reducer.finish()
        self._copies.complete(rows, self.parameters)
        for name, parameter in self.parameters.items():
            # Assignment copies; keeping a row here would keep its whole bucket alive.
            parameter.grad = rows.pop(name, None)

    def squared_norm(self, measure: Callable[[list[paddle.Tensor]], paddle.Tensor] = sum_of_squares) -> float:
        """Return the squared norm of the whole model's gradient, counting every parameter once.

        ``measure`` returns the sum of the squares of all elements of tensors as float64 [1]. All processes get the
        same bits; if the value is not finite on one, it is not finite on all.
        """
        counted = [
            parameter.grad
            for name, parameter in self.parameters.items()
            if parameter.grad is not None
            and name in self._copies.owned
            and (self.stage or self.topology.sharding.is_first)
        ]
        shares = self.topology.world.gather(measure(counted), "gradient norm")
        return float(paddle.concat(shares).numpy().sum())

    @paddle.no_grad()
    def publish(self) -> None:
        """Copy the updated parameters into the model's weights, on all processes."""
        if self._sliced is not None:
            for name in self.masters:
                paddle.assign(self.parameters[name].astype(self._trained[name].dtype), self._sliced.slices[name])
            self._sliced.release()
        elif self.stage:
            self._gather_weights()
        else:
            for name in self.masters:
                paddle.assign(self.parameters[name].astype(self._trained[name].dtype), self._trained[name])

    def _gather_weights(self) -> None:
        for bucket in make_buckets(self._trained, pieces=self._group.size):
            dtype = self._trained[next(iter(bucket.shapes))].dtype
            pieces = self._group.gather(bucket.pack_rows(self.parameters, self._group.index, dtype), "weights")
            for name, whole in bucket.join(pieces).items():
                paddle.assign(whole, self._trained[name])

    def clear(self) -> None:
        """Discard all gradients."""
        self._reducer.clear()
        for parameter in self.parameters.values():
            parameter.grad = None

    def gathered(self) -> AbstractContextManager[None]:
        """Context in which all of this process's weights are whole; below stage 3 they always are."""
        return contextlib.nullcontext() if self._sliced is None else self._sliced.gathered()

    def local_weights(self) -> dict[str, paddle.Tensor]:
        """Return the parameters that this process holds under tensor and pipeline parallelism, by name.

        In stage 3 they have values only inside ``gathered``.
        """
        return dict(self._model.named_parameters())

    def kept_weights(self) -> Iterator[tuple[str, paddle.Tensor]]:
        """Yield the weights, in the model's dtype, that stay in memory between uses: in stage 3 only rows."""
        yield from self._model.named_parameters() if self._sliced is None else self._sliced.named_tensors()

    @property
    def kept_parts(self) -> dict[str, Part] | None:
        """The parts of the whole tensors that ``kept_weights`` are; None below stage 3."""
        return None if self._sliced is None else self._sliced.parts

    def held_gradients(self) -> Iterator[tuple[str, paddle.Tensor]]:
        """Yield the gradients currently in memory."""
        yield from self._reducer.held()
        for name, parameter in self.parameters.items():
            if parameter.grad is not None:
                yield name, parameter.grad

    def updated_copies(self) -> Iterator[tuple[str, paddle.Tensor]]:
        """Yield the ``parameters`` that take memory in addition to the weights."""
        yield from ((name, p) for name, p in self.parameters.items() if not self._is_weight(name))


def _is_half(parameter: paddle.Tensor) -> bool:
    return parameter.dtype in (paddle.bfloat16, paddle.float16)
