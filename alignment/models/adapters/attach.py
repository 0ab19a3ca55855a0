"""Attach a low-rank adapter to a model: freeze the base, add the factors, and switch them off for a reference."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import paddle

from alignment.architecture.adapter import FACTORS, HEAD, Adapter
from alignment.architecture.parts import Part
from alignment.metrics import Metric
from alignment.models.decoder.adapter_use import AdapterState, AdapterUse
from alignment.models.decoder.decoder import CausalLM
from alignment.models.decoder.layers import Linear
from alignment.models.decoder.score_model import ScoreModel
from alignment.ops.addressed_dropout import dropout
from alignment.parallel.runner import ModelRunner, Objective
from alignment.records import TokenBatch


class LowRankBranch:
    """The part that an adapter adds to the product of one module: scaling * (x @ A) @ B."""

    def __init__(self, module: Linear, adapter: Adapter, *, stream: int, first_column: int) -> None:
        """``stream`` and ``first_column`` address the module's dropout (see ``ops.addressed_dropout``)."""
        self._first, self._second = (module._sub_layers[name] for name in FACTORS)
        self._scaling, self._rate = adapter.scaling, adapter.dropout
        self._stream, self._first_column = stream, first_column

    def __call__(self, x: paddle.Tensor, use: AdapterUse) -> paddle.Tensor:
        """Return [M, out] for x [M, in]; under row parallelism this process's share of the sum."""
        if use.dropout_keys is not None:
            where = {"stream": self._stream, "first_column": self._first_column}
            x = dropout(x, use.dropout_keys, rate=self._rate, **where)
        return self._second(self._first(x) * self._scaling)


def attach_adapter(model: CausalLM | ScoreModel, adapter: Adapter, *, seed: int) -> None:
    """Add ``adapter`` to ``model`` and freeze everything but its factors and a score head.

    A is drawn from U(-1/sqrt(in), 1/sqrt(in)) as in peft, by ``seed`` and name alone; B is zero, so the model computes
    what its base does. ``model.parts`` and ``model.whole_shapes`` get the factors.
    """
    assert model.model.adapter is None, "a model has one adapter"
    parts = adapter.parts(model.parts)
    for name, parameter in model.named_parameters():
        parameter.stop_gradient = not name.startswith(HEAD)
    dtype = str(model.model.dtype).rpartition(".")[2]
    layers = dict(model.named_sublayers())
    for module in adapter.modules:
        if f"{module}.weight" in model.parts:
            _adapt(layers[module], module, adapter, parts, dtype)
    model.parts = model.parts | parts
    model.whole_shapes = model.whole_shapes | adapter.shapes(model.whole_shapes)
    model.adapter = adapter
    model.model.adapter = AdapterState(dropout=adapter.dropout, seed=seed)
    _draw_factors(model, seed)


def _adapt(layer: Linear, module: str, adapter: Adapter, parts: dict[str, Part], dtype: str) -> None:
    for factor in FACTORS:
        extent = parts[f"{module}.{factor}.weight"].extent
        layer.add_sublayer(factor, Linear(*extent, bias=False, dtype=dtype))
    first_column = parts[f"{module}.{FACTORS[0]}.weight"].box[0][0]
    stream = zlib.crc32(module.encode()) >> 1
    layer.branch = LowRankBranch(layer, adapter, stream=stream, first_column=first_column)


@paddle.no_grad()
def _draw_factors(model: CausalLM | ScoreModel, seed: int) -> None:
    for name, parameter in model.named_parameters():
        if name.endswith(f".{FACTORS[0]}.weight"):
            part = model.parts[name]
            generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
            values = generator.uniform(-1, 1, part.shape).astype(np.float32) / np.sqrt(np.float32(part.shape[0]))
            parameter.set_value(paddle.to_tensor(values[part.slices]).astype(parameter.dtype))


@contextlib.contextmanager
def adapter_off(model: CausalLM | ScoreModel) -> Iterator[None]:
    """Context in which ``model`` computes what its base does, for passes without gradients."""
    state = model.model.adapter
    state.is_on = False
    try:
        yield
    finally:
        state.is_on = True


class BaseRunner:
    """A runner of an adapted model as its base: the reference of a policy, which takes no memory of its own."""

    def __init__(self, runner: ModelRunner) -> None:
        self.model = runner.model
        self._runner = runner

    def forward(self, batches: Sequence[TokenBatch], read: Callable[[Any, TokenBatch], Any]) -> list[Any]:
        """See ``ModelRunner.forward``."""
        with adapter_off(self.model):
            return self._runner.forward(batches, read)

    def forward_backward(self, batches: Sequence[TokenBatch], objective: Objective) -> list[dict[str, Metric]]:
        """A base is frozen."""
        raise AssertionError("the base of an adapter is not trained")

    def share(self, items: Sequence[Any]) -> list[Any]:
        """See ``ModelRunner.share``."""
        return self._runner.share(items)
