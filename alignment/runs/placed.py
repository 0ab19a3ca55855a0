"""Place models in the layout of a run: build runners, shard weights, and write trained models."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import paddle

from alignment.architecture.adapter import is_factor
from alignment.architecture.cuts import gradient_is_partial
from alignment.architecture.families import EMBEDDING, HEAD_BIAS, LM_HEAD
from alignment.architecture.parts import Part
from alignment.device.offload import Offloaded, resident
from alignment.errors import NotFiniteError
from alignment.metrics import Metric
from alignment.models.adapters.folder import save_adapter, trained_weights
from alignment.models.folders.saving import WeightSource, save_model
from alignment.models.tokenizer.tokenizer import Tokenizer
from alignment.ops.precision import is_half
from alignment.parallel.build_runner import build_runner
from alignment.parallel.runner import ModelRunner, Objective
from alignment.parallel.sharding.partition import MAX_STAGE, ParameterShards
from alignment.parallel.sharding.stage3 import SlicedWeights
from alignment.parallel.topology import Topology
from alignment.records import TokenBatch
from alignment.training.checkpoint import ModelWriter
from alignment.training.learner import Learner
from alignment.training.weight_average import WeightAverage


class ResidentRunner:
    """A runner whose offloaded model is moved to the device for each call (see ``ModelRunner``)."""

    def __init__(self, runner: ModelRunner, offloaded: Offloaded | None) -> None:
        self.model = runner.model
        self._runner = runner
        self._offloaded = offloaded

    def forward(self, batches: Sequence[TokenBatch], read: Callable[[Any, TokenBatch], Any]) -> list[Any]:
        """See ``ModelRunner.forward``."""
        with resident(self._offloaded):
            return self._runner.forward(batches, read)

    def forward_backward(self, batches: Sequence[TokenBatch], objective: Objective) -> list[dict[str, Metric]]:
        """See ``ModelRunner.forward_backward``."""
        with resident(self._offloaded):
            return self._runner.forward_backward(batches, objective)

    def share(self, items: Sequence[Any]) -> list[Any]:
        """See ``ModelRunner.share``."""
        return self._runner.share(items)


class AbsentRunner:
    """Stands for the runner of a model that other ranks have (see ``ModelRunner``)."""

    def __init__(self, model: paddle.nn.Layer) -> None:
        self.model = model

    def forward(self, batches: Sequence[TokenBatch], read: Callable[[Any, TokenBatch], Any]) -> list[Any]:
        """See ``ModelRunner.forward``; never called: ``share_work`` brings the results of other ranks."""
        raise AssertionError("this process has no part of the model")

    def forward_backward(self, batches: Sequence[TokenBatch], objective: Objective) -> list[dict[str, Metric]]:
        """See ``forward``."""
        raise AssertionError("this process has no part of the model")

    def share(self, items: Sequence[Any]) -> list[Any]:
        """See ``forward``."""
        raise AssertionError("this process has no part of the model")


class LaidOutModel(NamedTuple):
    """A model without an optimizer, in the layout of a run."""

    runner: ModelRunner
    kept: Callable[[], Iterable[tuple[str, paddle.Tensor]]]
    """Yields the weights that stay in memory between uses, by canonical name: in stage 3 only rows."""
    parts: Mapping[str, Part]
    """The parts of the whole tensors that they are."""
    offloaded: Offloaded | None = None


def place_frozen(name: str, model: Any, topology: Topology | None, *, offload: bool) -> ModelRunner:
    """Return the runner of a frozen model; stage 3 shards its weights too. Without ``topology`` other ranks have it."""
    if topology is None:
        return AbsentRunner(model)
    return place(name, model, topology, offload=offload).runner


def place(name: str, model: Any, topology: Topology, *, offload: bool) -> LaidOutModel:
    """Return a model that no optimizer updates, with its weights; see ``place_frozen``."""
    kept, parts = model.named_parameters, model.parts
    if _cuts_weights(topology):
        sliced = SlicedWeights(model, topology.sharding, part_of=model.parts.__getitem__, used_after=head_use(model))
        kept, parts = sliced.named_tensors, sliced.parts
    runner = build_runner(model, topology)
    if not offload:
        return LaidOutModel(runner, kept, parts)
    offloaded = Offloaded(f"{name} model", kept)
    return LaidOutModel(ResidentRunner(runner, offloaded), kept, parts, offloaded)


def scoring_runner(learner: Learner) -> ModelRunner:
    """Return the runner of a trained model for forward passes without gradients."""
    offloaded = learner.offloaded_model
    return learner.runner if offloaded is None else ResidentRunner(learner.runner, offloaded)


def shard_model(model: Any, topology: Topology) -> ParameterShards | None:
    """Return the shards of ``model`` that this process updates; None if a single process updates float32 weights."""
    if topology.world_size == 1 and not any(map(is_half, model.parameters())):
        return None
    layout, config = topology.layout, model.config
    is_tied = layout.pipeline > 1 and config.tie_word_embeddings and model.kind == "causal"
    return ParameterShards(
        model,
        topology,
        stage=layout.sharding_stage,
        part_of=model.parts.__getitem__,
        is_partial=lambda name: (
            is_factor(name)
            or gradient_is_partial(
                name, config, tensor_degree=layout.tensor, sequence_parallel=layout.sequence_parallel
            )
        ),
        tied={EMBEDDING} if is_tied else (),
        used_after=head_use(model),
    )


def head_use(model: Any) -> Mapping[str, paddle.nn.Layer]:
    """Return the weight and bias of the vocabulary head, which log-probs use after the last layer before it."""
    if model.kind != "causal" or not model.placement.is_last:
        return {}
    names = [LM_HEAD, HEAD_BIAS] if model.config.head_bias else [LM_HEAD]
    return dict.fromkeys(names if model.lm_head is not None else [EMBEDDING], model.model.last_layer)


def model_writer(learner: Learner, tokenizer: Tokenizer, topology: Topology) -> ModelWriter:
    """Return a function that writes a trained model to a folder, whatever its sharding stage."""
    model = learner.runner.model
    parts = learner.kept_parts() or model.parts
    source = WeightSource(tensors=dict(learner.kept_weights()), parts=parts, topology=topology)

    def write(folder: Path) -> None:
        with resident(learner.offloaded_model):
            try:
                if model.adapter is None:
                    save_model(folder, model, tokenizer, weights=source)
                else:
                    save_adapter(folder, model, tokenizer, trained_weights(source))
            except NotFiniteError as error:
                raise learner.diverged(str(error), "and was not written") from error

    return write


def average_writer(average: WeightAverage, tokenizer: Tokenizer, topology: Topology) -> ModelWriter:
    """Return a function that writes the average of a learner's weights to a folder, in the dtype of its model."""
    learner, model = average.learner, average.learner.runner.model
    dtypes = {name: weight.dtype for name, weight in learner.kept_weights()}

    def write(folder: Path) -> None:
        tensors = {name: paddle.to_tensor(array).astype(dtypes[name]) for name, array in average.arrays.items()}
        parts = learner.kept_parts() or model.parts
        source = WeightSource(tensors=tensors, parts=parts, topology=topology)
        if model.adapter is None:
            save_model(folder, model, tokenizer, weights=source)
        else:
            save_adapter(folder, model, tokenizer, source)

    return write


def _cuts_weights(topology: Topology) -> bool:
    return topology.layout.sharding_stage == MAX_STAGE and topology.sharding.size > 1
