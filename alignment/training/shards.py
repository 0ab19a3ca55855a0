"""How the decoder's models are sharded in a layout."""

from __future__ import annotations

from functools import partial
from typing import Any

from paddle import nn

from alignment.models.split_plan import EMBEDDING, gradient_is_partial
from alignment.parallel.sharding import MAX_STAGE, ParameterShards
from alignment.parallel.sharding_full import SlicedWeights
from alignment.parallel.topology import Topology


def shard_trained(model: Any, topology: Topology) -> ParameterShards:
    """Return what this process updates of ``model``, a CausalLM or ScoreModel built for its place in ``topology``."""
    layout = topology.layout
    return ParameterShards(
        model,
        topology,
        stage=layout.sharding_stage,
        part_of=model.parts.__getitem__,
        is_partial=partial(
            gradient_is_partial,
            config=model.config,
            tensor_degree=layout.tensor,
            sequence_parallel=layout.sequence_parallel,
        ),
        tied=[EMBEDDING] if _has_tied_head(model) else [],
        used_after=_used_after(model),
    )


def shard_frozen(model: Any, topology: Topology) -> SlicedWeights | None:
    """Cut a model that is only run; None where the layout's sharding stage leaves weights whole."""
    if topology.layout.sharding_stage < MAX_STAGE or topology.sharding.size == 1:
        return None
    return SlicedWeights(model, topology.sharding, part_of=model.parts.__getitem__, used_after=_used_after(model))


def _has_tied_head(model: Any) -> bool:
    return model.kind == "causal" and model.config.tie_word_embeddings


def _used_after(model: Any) -> dict[str, nn.Layer]:
    """Return the head's weight, which log-probs are made from outside of the model, behind the decoder."""
    if model.kind != "causal" or not model.placement.is_last:
        return {}
    head = model.head()[0]
    return {name: model.model for name, parameter in model.named_parameters() if parameter is head}
