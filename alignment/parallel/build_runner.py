"""Choose the runner for a layout."""

from __future__ import annotations

import paddle

from alignment.parallel.dense import DenseRunner
from alignment.parallel.pipeline import PipelineRunner
from alignment.parallel.runner import ModelRunner
from alignment.parallel.topology import Topology


def build_runner(model: paddle.nn.Layer, topology: Topology) -> ModelRunner:
    """Return the runner for ``model``, which must be built for this process of ``topology``."""
    return DenseRunner(model, topology) if topology.pipeline.size == 1 else PipelineRunner(model, topology)
