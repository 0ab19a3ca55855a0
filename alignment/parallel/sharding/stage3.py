"""Gather weights only while their layer runs (sharding stage 3, after ZeRO, Rajbhandari et al. 2020).

Each process keeps its own rows of every parameter. A layer's weights are gathered before its forward and its backward
pass, and freed when the next layer is gathered or when its gradients are complete. All processes run the same layers in
the same order, so their gathers match.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import paddle
from paddle import nn

from alignment.architecture.parts import Part
from alignment.parallel.comms.group import Group
from alignment.parallel.sharding.buckets import make_buckets
from alignment.parallel.sharding.units import find_units


class SlicedWeights:
    """The parameters of one model, sharded over a group; for a frozen model this is all that is needed.

    ``slices`` are this process's rows by name, and ``parts`` say what part of the whole tensors they are; parameters of
    which it has no rows are in neither.
    """

    def __init__(
        self,
        model: nn.Layer,
        group: Group,
        *,
        part_of: Callable[[str], Part],
        used_after: Mapping[str, nn.Layer] | None = None,
    ) -> None:
        """``part_of`` gives the part of the model that this process's unsharded parameter is, by name.

        ``used_after`` maps a parameter that is used outside its own layer's call to the layer whose forward pass comes
        just before: the head, as log-probs are computed outside the model.
        """
        self._group = group
        self._parameters = dict(model.named_parameters())
        self.slices: dict[str, paddle.Tensor] = {}
        self.parts: dict[str, Part] = {}
        self._holders = 0
        self._in_backward: list[_Gathered] = []
        self._gathers = {}
        for unit in find_units(model):
            fresh = [name for name in unit.names if name not in self._gathers]
            gathered = _Gathered({name: self._parameters[name] for name in fresh}, group)
            self._gathers.update(dict.fromkeys(fresh, gathered))
        for name in self._parameters:
            self._cut(name, part_of(name))
        for unit in find_units(model):
            self._attend(unit.layer, self._gathers_of(unit.names))
        after = used_after or {}
        for layer in {id(layer): layer for layer in after.values()}.values():
            names = [name for name, before in after.items() if before is layer]
            layer.register_forward_post_hook(partial(self._promise, self._gathers_of(names)))
        self.release()

    def _cut(self, name: str, part: Part) -> None:
        parameter = self._parameters[name]
        assert part.extent == tuple(parameter.shape), f"{name} is {parameter.shape}, not {part.extent}"
        start, stop = self._gathers[name].rows(name, self._group.index)
        if stop > start:
            self.slices[name] = new_parameter(parameter.detach()[start:stop].clone(), parameter.stop_gradient)
            self.parts[name] = part.along(0, start, stop)

    def _gathers_of(self, names: Sequence[str]) -> list[_Gathered]:
        return list({id(self._gathers[name]): self._gathers[name] for name in names}.values())

    def _attend(self, layer: nn.Layer, needed: Sequence[_Gathered]) -> None:
        """Install hooks that gather the weights ``needed`` by ``layer`` whenever it runs."""

        def before(*_: object) -> None:
            for gathered in needed:
                self._gather(gathered)
                gathered.users += 1

        def behind(_: object, __: object, outputs: object) -> None:
            for gathered in needed:
                gathered.users -= 1
            # A recomputed layer runs forward, with gradients, just before its backward pass: keep the weights until
            # the next gather.
            if not paddle.is_grad_enabled():
                self._release_idle()
            for output in _tensors(outputs):
                if not output.stop_gradient:
                    output.register_hook(partial(self._expect, needed))

        layer.register_forward_pre_hook(before)
        layer.register_forward_post_hook(behind)

    def _promise(self, needed: Sequence[_Gathered], _: object, __: object, outputs: object) -> None:
        """Gather what is used after a forward pass; if gradients follow, keep it until they are complete."""
        keeps = any(not output.stop_gradient for output in _tensors(outputs))
        for gathered in needed:
            self._gather(gathered)
            gathered.promised += keeps

    def _expect(self, needed: Sequence[_Gathered], _: object) -> None:
        """Gather for a backward pass; runs when the gradient of a layer's output has been computed.

        Then the backward pass of the layer behind it has ended.
        """
        for ended in self._in_backward:
            ended.in_backward = False
        self._in_backward = [gathered for gathered in needed if gathered.has_frozen]
        for gathered in needed:
            self._gather(gathered)
            gathered.in_backward = gathered.has_frozen
            gathered.awaited = set(gathered.trainable)

    @paddle.no_grad()
    def _gather(self, gathered: _Gathered) -> None:
        if not gathered.is_whole:
            self._release_idle()
            gathered.fill(self.slices)

    def _release_idle(self) -> None:
        if not self._holders:
            for gathered in self._gathers_of(list(self._gathers)):
                if gathered.is_whole and gathered.is_idle:
                    gathered.empty()

    def arrived(self, name: str) -> None:
        """Record that the gradient of ``name`` was taken; after the last one of a unit its weights are freed."""
        gathered = self._gathers[name]
        gathered.awaited.discard(name)
        gathered.promised = max(0, gathered.promised - 1)
        if gathered.is_idle:
            self._release_idle()

    def release(self) -> None:
        """Free all gathered weights because they are outdated or no longer needed."""
        assert not self._holders, "weights are held by gathered()"
        for gathered in self._gathers_of(list(self._gathers)):
            gathered.users = gathered.promised = 0
            gathered.in_backward = False
            gathered.awaited = set()
            if gathered.is_whole:
                gathered.empty()

    @contextlib.contextmanager
    def gathered(self) -> Iterator[None]:
        """Context in which all weights are whole, for example to generate; not for training."""
        for gathered in self._gathers_of(list(self._gathers)):
            with paddle.no_grad():
                if not gathered.is_whole:
                    gathered.fill(self.slices)
        self._holders += 1
        try:
            yield
        finally:
            self._holders -= 1
            self._release_idle()

    def named_tensors(self) -> Iterator[tuple[str, paddle.Tensor]]:
        """Yield what stays in memory between uses, after freeing the rest."""
        if not self._holders:
            self.release()
        yield from self.slices.items()


class _Gathered:
    """Parameters that are gathered together, and who needs them now."""

    def __init__(self, parameters: Mapping[str, paddle.Tensor], group: Group) -> None:
        self.trainable = {name for name, parameter in parameters.items() if not parameter.stop_gradient}
        self.users = 0
        """Forward passes in progress."""
        self.promised = 0
        """Future backward passes announced by the forward pass."""
        self.awaited: set[str] = set()
        """Gradients outstanding in a backward pass in progress."""
        self.has_frozen = len(self.trainable) < len(parameters)
        self.in_backward = False
        """Whether a backward pass may still need frozen parameters, for which no gradient is awaited."""
        self.is_whole = True
        self._parameters = dict(parameters)
        self._group = group
        size = sum(int(parameter.size) * parameter.element_size() for parameter in parameters.values())
        self._buckets = make_buckets(parameters, pieces=group.size, limit=size)

    @property
    def is_idle(self) -> bool:
        return not (self.users or self.promised or self.awaited or self.in_backward)

    def rows(self, name: str, index: int) -> tuple[int, int]:
        """Return (start, stop): the rows of ``name`` that process ``index`` holds."""
        return next(bucket for bucket in self._buckets if name in bucket.shapes).rows(name, index)

    def fill(self, slices: Mapping[str, paddle.Tensor]) -> None:
        """Gather the parameters from the ``slices`` of all processes."""
        for bucket in self._buckets:
            dtype = self._parameters[next(iter(bucket.shapes))].dtype
            pieces = self._group.gather(bucket.pack_rows(slices, self._group.index, dtype), "weights")
            for name, whole in bucket.join(pieces).items():
                whole._share_buffer_to(self._parameters[name])
        self.is_whole = True

    def empty(self) -> None:
        """Free the memory of the parameters."""
        for parameter in self._parameters.values():
            parameter._clear_data()
        self.is_whole = False


def new_parameter(value: paddle.Tensor, stop_gradient: bool = False) -> paddle.Tensor:
    """Return a parameter, as optimizers require, that shares the memory of ``value``."""
    zero = nn.initializer.Constant(0.0)
    parameter = nn.Layer().create_parameter(value.shape, dtype=value.dtype, default_initializer=zero)
    value._share_buffer_to(parameter)
    parameter.stop_gradient = stop_gradient
    return parameter


def _tensors(outputs: object) -> list[paddle.Tensor]:
    found = outputs if isinstance(outputs, (tuple, list)) else [outputs]
    return [output for output in found if isinstance(output, paddle.Tensor)]
