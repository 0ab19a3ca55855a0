"""Run a model whose layers are split into pipeline stages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import paddle

from alignment.architecture.pipeline_schedule import Compute, StageTransfer, build_schedule, events_of
from alignment.metrics import Metric
from alignment.parallel.comms.group import Group
from alignment.parallel.runner import Objective, T, mark_filler, metrics_to_host, to_host
from alignment.parallel.shares import Shares
from alignment.parallel.topology import Topology
from alignment.records import TokenBatch

Finish = Callable[[int, TokenBatch], paddle.Tensor | None]
"""Runs the model's last chunk and loss on a micro-batch (index, batch); returns the tensor to differentiate."""


class PipelineRunner:
    """Runs this process's stage of a model, whose ``model`` is a Decoder (see ``ModelRunner``)."""

    def __init__(self, model: paddle.nn.Layer, topology: Topology) -> None:
        self.model = model
        self._pipeline = topology.pipeline
        self._chunks = topology.layout.virtual_stages
        self._shares = Shares(topology)

    def forward(self, batches: Sequence[TokenBatch], read: Callable[[Any, TokenBatch], Any]) -> list[Any]:
        """See ``ModelRunner.forward``; a tuple from ``read`` gives a tuple of arrays."""
        self.model.eval()
        outputs = []

        def finish(index: int, batch: TokenBatch) -> None:
            outputs.append(to_host(read(self.model, batch)))

        with paddle.no_grad():
            self._run(self._shares.take(batches, "forward"), finish, with_backward=False)
        return self.share(outputs)

    def forward_backward(self, batches: Sequence[TokenBatch], objective: Objective) -> list[dict[str, Metric]]:
        """See ``ModelRunner.forward_backward``."""
        self.model.train()
        metrics = []

        def finish(index: int, batch: TokenBatch) -> paddle.Tensor:
            loss = objective.loss(objective.read(self.model, batch), batch)
            metrics.append(loss.metrics)
            return loss.value * 0 if self._shares.is_filler(index) else loss.value

        self._run(self._shares.take(batches, "forward and backward"), finish, with_backward=True)
        return self.share(metrics_to_host(metrics))

    def share(self, items: Sequence[T]) -> list[T]:
        """See ``ModelRunner.share``."""
        return self._shares.collect(items)

    def _run(self, batches: list[TokenBatch], finish: Finish, *, with_backward: bool) -> None:
        stages = self._pipeline.size
        schedule = build_schedule(stages, self._chunks, len(batches), with_backward=with_backward)
        stage = _StageRun(self.model.model, self._pipeline, chunks=self._chunks, batches=batches, finish=finish)
        for event in events_of(schedule, self._pipeline.index, stages):
            if isinstance(event, StageTransfer):
                stage.pass_on(event)
            elif event.backward:
                stage.go_back(event)
            else:
                mark_filler(self.model, self._shares.is_filler(event.batch))
                stage.go_forward(event, keep=with_backward)


class _StageRun:
    """One process's part in executing the schedule once, with the tensors in transit."""

    def __init__(
        self, decoder: Any, pipeline: Group, *, chunks: int, batches: list[TokenBatch], finish: Finish
    ) -> None:
        self._decoder, self._pipeline = decoder, pipeline
        self._batches, self._finish = batches, finish
        self._last = pipeline.size * chunks - 1
        self._mail: dict[StageTransfer, paddle.Tensor] = {}
        """Hidden states and gradients received and not yet used, or computed and not yet sent."""
        self._kept: dict[tuple[int, int], tuple[paddle.Tensor | None, paddle.Tensor]] = {}
        """(input, output) of forward passes that await their backward pass, by (position, batch)."""

    def pass_on(self, message: StageTransfer) -> None:
        """Send or receive one hidden state or its gradient."""
        source, target = (position % self._pipeline.size for position in (message.source, message.target))
        kind = "hidden state" if message.source < message.target else "gradient"
        what = f"{kind} of micro-batch {message.batch}"
        if source == self._pipeline.index:
            self._pipeline.send(self._mail.pop(message), target, what)
        else:
            rows = self._decoder.boundary_rows(self._batches[message.batch])
            shape = [rows, self._decoder.config.hidden_size]
            self._mail[message] = self._pipeline.receive(shape, self._decoder.dtype, source, what)

    def go_forward(self, event: Compute, *, keep: bool) -> None:
        """Run one chunk of the model on one micro-batch; with ``keep`` store what the backward pass needs."""
        position, index = event.position, event.batch
        batch = self._batches[index]
        hidden = self._mail.pop(StageTransfer(position - 1, position, index)) if position > 0 else None
        if hidden is not None:
            hidden.stop_gradient = not keep
        if position == self._last:
            with self._decoder.starting_from(hidden):
                output = self._finish(index, batch)
        else:
            output = self._decoder.run_chunk(position // self._pipeline.size, batch, hidden)
            self._mail[StageTransfer(position, position + 1, index)] = output.detach()
        if keep:
            self._kept[position, index] = hidden, output

    def go_back(self, event: Compute) -> None:
        """Accumulate the gradients of one chunk of the model for one micro-batch."""
        position, index = event.position, event.batch
        hidden, output = self._kept.pop((position, index))
        gradient = None if position == self._last else self._mail.pop(StageTransfer(position + 1, position, index))
        paddle.autograd.backward([output], [gradient])
        if hidden is not None:
            self._mail[StageTransfer(position, position - 1, index)] = hidden.grad
