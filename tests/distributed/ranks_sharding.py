"""What each rank does in ``test_sharding.py``; the reference is the same work in one process."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any
from unittest import mock

import numpy as np
import paddle
from ranks_runner import policy_task, small_config, value_task

from alignment.architecture.layout import Layout
from alignment.architecture.parts import Part
from alignment.errors import NumericalError
from alignment.metrics import Metric
from alignment.models.decoder.decoder import CausalLM
from alignment.models.decoder.initialise import draw_weights
from alignment.models.decoder.logprobs import policy_logprobs
from alignment.models.decoder.placement import Placement
from alignment.models.decoder.score_model import ScoreModel, ScoreOptions
from alignment.parallel.build_runner import build_runner
from alignment.parallel.initialise import initialise
from alignment.parallel.sharding import message_cuts
from alignment.parallel.sharding.partition import ParameterShards
from alignment.parallel.sharding.stage3 import SlicedWeights
from alignment.parallel.topology import Topology
from alignment.runs.placed import head_use, shard_model
from alignment.training.gradient_norm import clip_factor
from alignment.training.learner import Learner
from alignment.training.optimizers import AdamSettings, NamedAdamW
from alignment.training.schedules import Schedule

MICRO_BATCHES = (3, 2, 5, 1, 4)
"""Of each update: no number of batch ranks divides all of them."""
ADAM = AdamSettings(weight_decay=0.1, epsilon=1e-3)
"""Such an epsilon keeps rounding errors of gradients that are nearly zero from becoming whole steps."""
SCHEDULE = Schedule(kind="linear", peak=0.003, floor=0.0, warmup_updates=0, decay_updates=20)


def build_model(case: dict, placement: Placement) -> Any:
    """Return the model of ``case``: ``kind``, ``tied`` and ``recompute``."""
    config = dataclasses.replace(small_config(tied=case.get("tied", False)), qk_norm=True)
    if case.get("kind") == "score":
        model = ScoreModel(config, ScoreOptions(score_bias=True), placement=placement)
    else:
        model = CausalLM(config, dtype=case.get("dtype", "float32"), placement=placement)
    draw_weights(model, seed=3, std=0.15)
    model.model.recompute = bool(case.get("recompute"))
    model.model.recompute_granularity = case.get("recompute") or "full"
    return model


def at_stage(topology: Topology, case: dict) -> Topology:
    """Return ``topology`` with the sharding stage of ``case``."""
    return dataclasses.replace(topology, layout=dataclasses.replace(topology.layout, sharding_stage=case["stage"]))


def train_cases(layout: Layout, cases: Sequence[dict]) -> list[dict]:
    """Return for every case the norms, the weights and the gradients of this rank with their parts."""
    topology = initialise(device="cpu", seed=1, layout=layout)
    # A fraction of a layer: several messages for each, and several runs of layers in the model.
    message_cuts.BUCKET_BYTES = 8192
    return [train(at_stage(topology, case), case) for case in cases]


def train(topology: Topology, case: dict) -> dict:
    """Take the gradients of one update, forget them, and apply five."""
    model = build_model(case, Placement.of(topology))
    shards = shard_model(model, topology)
    if "dtype" in case and shards is None:
        # Without shards the norm is a float32.
        shards = ParameterShards(model, topology, stage=0, part_of=model.parts.__getitem__)
    updated = dict(model.named_parameters()) if shards is None else shards.parameters
    learner = Learner(
        "policy",
        build_runner(model, topology),
        optimizer=NamedAdamW(updated, ADAM, parts=None if shards is None else shards.parts),
        schedule=SCHEDULE,
        max_grad_norm=0.5,
        shards=shards,
    )
    waiting = count_waiting(model, shards)
    task = value_task if case.get("kind") == "score" else policy_task
    parts = learner.state_parts()
    batches, make_objective = task(4)
    learner.accumulate(batches, make_objective(model))
    if shards is not None:
        shards.finish_gradients()
    gradients = [(parts[name], p.grad.numpy()) for name, p in updated.items() if p.grad is not None]
    model.clear_gradients() if shards is None else shards.clear()
    norms, live = [], []
    for count in MICRO_BATCHES:
        batches, make_objective = task(count)
        learner.accumulate(batches, make_objective(model))
        live.append(measure(model, shards))
        norms.append(learner.apply()["policy/gradient_norm"].value)
    return {
        "norms": norms,
        "live": live,
        "most waiting": max(waiting, default=0),
        "weights": [(model.parts[name], value.numpy()) for name, value in learner.weights()],
        "gradients": gradients,
        "moments": [(parts[name], learner.state()[f"{name}/moment2_0"]) for name in parts],
    }


def count_waiting(model: Any, shards: ParameterShards | None) -> list[int]:
    """Return a list that grows by the number of elements that wait to be reduced, after each gradient."""
    counts: list[int] = []

    def note(*_: object) -> None:
        counts.append(sum(int(g.size) for g in shards._reducer._pending.values()))

    for parameter in model.parameters() if shards is not None else []:
        parameter._register_backward_hook(note)
    return counts


def measure(model: Any, shards: Any) -> dict[str, int]:
    """Return numbers of elements: in weights and gradients of the model, kept elsewhere, and in all."""
    parameters = model.parameters()
    return {
        "model": sum(int(p.size) for p in parameters),
        "weights": sum(int(p.size) for p in parameters if p._is_initialized()),
        "gradients": sum(int(p.grad.size) for p in parameters if p.grad is not None),
        "held gradients": sum(int(g.size) for _, g in shards.held_gradients()) if shards else 0,
        "kept weights": sum(int(w.size) for _, w in shards.kept_weights()) if shards else 0,
    }


def slice_frozen(model: Any, topology: Topology) -> SlicedWeights | None:
    """Cut a model that is only run; one process leaves it whole."""
    if topology.sharding.size == 1:
        return None
    return SlicedWeights(model, topology.sharding, part_of=model.parts.__getitem__, used_after=head_use(model))


def score_frozen(layout: Layout, cases: Sequence[dict]) -> list[dict]:
    """Return for every case log-probs of a frozen model, and how many weights were whole at once and after."""
    topology = initialise(device="cpu", seed=1, layout=layout)
    return [score(topology, case) for case in cases]


def score(topology: Topology, case: dict) -> dict:
    """See ``score_frozen``."""
    model = build_model(case, Placement.of(topology))
    sliced = slice_frozen(model, topology)
    whole: list[int] = []

    def note(*_: object) -> None:
        whole.append(sum(int(p.size) for p in model.parameters() if p._is_initialized()))

    for layer in model.sublayers():
        layer.register_forward_post_hook(note)
    batches, _ = policy_task(3)

    def read(model: Any, batch: Any) -> paddle.Tensor:
        return policy_logprobs(model, batch, temperature=1.0, with_entropy=False)[0]

    outputs = build_runner(model, topology).forward(batches, read)
    again = build_runner(model, topology).forward(batches, read)
    after = 0
    if sliced is not None:
        with sliced.gathered():
            weights = {name: p.numpy() for name, p in model.named_parameters()}
        sliced.release()
        after = sum(int(p.size) for p in model.parameters() if p._is_initialized())
    else:
        weights = {name: p.numpy() for name, p in model.named_parameters()}
    return {"outputs": outputs, "again": again, "most": max(whole), "after": after, "weights": weights}


class BrokenRunner:
    """A runner whose metric, or gradient, is not a number on the second rank."""

    def __init__(self, model: paddle.nn.Layer, *, rank: int, metric: float, gradient: float) -> None:
        self.model = model
        self._values = (metric, gradient) if rank == 1 else (1.0, 1.0)

    def forward_backward(self, *_: object) -> list[dict[str, Metric]]:
        """Leave a gradient and return one metric."""
        metric, gradient = self._values
        (self.model.weight.sum() * gradient).backward()
        return [{"loss": Metric(metric)}]


def break_one_rank(layout: Layout) -> dict[str, Any]:
    """Return what is raised for a metric and for a gradient that is NaN on the second rank only."""
    topology = initialise(device="cpu", seed=1, layout=layout)
    raised: dict[str, Any] = {}
    for what, values in (("metric", (np.nan, 1.0)), ("gradient", (1.0, np.nan))):
        model = paddle.nn.Linear(3, 2, bias_attr=False)
        shards = shard_plain(model, topology, stage=2)
        learner = Learner(
            "policy",
            BrokenRunner(model, rank=topology.rank, metric=values[0], gradient=values[1]),
            optimizer=NamedAdamW(shards.parameters, ADAM),
            schedule=SCHEDULE,
            max_grad_norm=1.0,
            shards=shards,
        )
        raised["weights before"] = model.weight.tolist()
        try:
            learner.accumulate([], None)
            learner.apply()
        except NumericalError as error:
            raised[what] = str(error)
        raised["weights after"] = model.weight.tolist()
    return raised


def shard_plain(model: paddle.nn.Layer, topology: Topology, *, stage: int) -> ParameterShards:
    """Return the shards of a model that is whole on every rank."""
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    return ParameterShards(model, topology, stage=stage, part_of=lambda name: Part.whole(name, shapes[name]))


class HalfModel(paddle.nn.Layer):
    """A bfloat16 weight in a product the CPU has a kernel for."""

    def __init__(self) -> None:
        super().__init__()
        one = paddle.nn.initializer.Constant(1.0)
        self.weight = self.create_parameter([5, 3], dtype="bfloat16", default_initializer=one)

    def forward(self, factor: float) -> paddle.Tensor:
        """Return a loss with the gradient ``factor`` everywhere."""
        return (self.weight.astype("float32") * factor).sum()


def train_half(layout: Layout, stages: Sequence[int]) -> list[dict[str, Any]]:
    """Return by stage what adding one large and eight small gradients and applying them gives."""
    topology = initialise(device="cpu", seed=1, layout=layout)
    return [add_in_half(topology, stage) for stage in stages]


def add_in_half(topology: Topology, stage: int) -> dict[str, Any]:
    """Add gradients, apply them, and save and restore the state."""
    model = HalfModel()
    shards = shard_plain(model, topology, stage=stage)
    optimizer = NamedAdamW(shards.parameters, ADAM, parts=shards.parts, masters=shards.masters)
    factors = [1.0, *[2.0**-9] * 8, 0.0]
    for factor in factors[topology.batch.index :: topology.batch.size]:
        model(factor).backward()
    shards.finish_gradients()
    gradient = shards.parameters["weight"].grad.numpy()
    optimizer.step(0.001)
    shards.publish()
    saved = optimizer.state()
    others = shard_plain(HalfModel(), topology, stage=stage)
    other = NamedAdamW(others.parameters, ADAM, parts=others.parts, masters=others.masters)
    other.load_state(saved)
    restored = other.state()
    assert all(np.array_equal(restored[key], value) for key, value in saved.items())
    with shards.gathered():
        weight = model.weight.astype("float32").numpy()
    return {"gradient": gradient, "master": saved["weight/master"], "weight": weight, "state": sorted(saved)}


def plain_model() -> paddle.nn.Layer:
    """Return the same feed-forward model at every call; no width divides by two."""
    model = paddle.nn.Sequential(paddle.nn.Linear(7, 13), paddle.nn.Tanh(), paddle.nn.Linear(13, 5))
    draw_weights(model, seed=2, std=0.3)
    return model


def compare_with_paddle(layout: Layout, stages: Sequence[int]) -> list[dict[str, Any]]:
    """Return by stage weights after four updates by our shards and by Paddle's own classes."""
    topology = initialise(device="cpu", seed=1, layout=layout)
    return [train_both(topology, stage) for stage in stages]


def train_both(topology: Topology, stage: int) -> dict[str, Any]:
    """Apply the same four updates in both ways."""
    generator = np.random.default_rng(4)
    steps = [
        (generator.standard_normal((8, 7)).astype("float32"), generator.standard_normal((8, 5)).astype("float32"))
        for _ in range(4)
    ]
    rows = slice(topology.rank * 4, topology.rank * 4 + 4)

    def backward(model: paddle.nn.Layer, step: tuple[np.ndarray, np.ndarray], scale: float) -> None:
        inputs, targets = (paddle.to_tensor(array[rows]) for array in step)
        ((model(inputs) - targets).square().sum() * (scale / 8)).backward()

    ours, theirs, start = plain_model(), plain_model(), plain_model()
    shards = shard_plain(ours, topology, stage=stage)
    optimizer = NamedAdamW(shards.parameters, AdamSettings())
    # Paddle takes the mean over ranks where we take the sum.
    wrapped, paddles = wrap_by_paddle(theirs, topology, stage)
    for step in steps:
        backward(ours, step, 1.0)
        shards.finish_gradients()
        optimizer.step(0.01, gradient_scale=clip_factor(shards.squared_norm() ** 0.5, 0.5))
        shards.publish()
        backward(wrapped, step, float(topology.world_size))
        paddles.step()
        paddles.clear_grad()
    if stage == 3:
        wrapped.get_all_parameters()
    with shards.gathered():
        return {
            "start": {name: p.numpy() for name, p in start.named_parameters()},
            "ours": {name: p.numpy() for name, p in ours.named_parameters()},
            "theirs": {name: p.numpy() for name, p in theirs.named_parameters()},
        }


def wrap_by_paddle(model: paddle.nn.Layer, topology: Topology, stage: int) -> tuple[Any, Any]:
    """Return (model, optimizer) of Paddle's sharding; its constructors ask for a GPU, on which nothing depends."""
    from paddle.base import core
    from paddle.distributed import fleet
    from paddle.distributed.fleet.meta_optimizers.dygraph_optimizer.hybrid_parallel_optimizer import (
        HybridParallelClipGrad,
    )
    from paddle.distributed.fleet.meta_parallel import sharding as found
    from paddle.distributed.fleet.meta_parallel.sharding import group_sharded_storage as storage

    clip = paddle.nn.ClipGradByGlobalNorm(0.5)
    adam = paddle.optimizer.AdamW(0.01, parameters=model.parameters(), weight_decay=0.0, grad_clip=clip)
    options = {"group": fleet.get_hybrid_communicate_group().get_sharding_parallel_group(), "device": "cpu"}
    add = storage.ParamStorage.add_rank_params

    def add_on_cpu(self: Any, parameters: Any, align: Any, convert_gpu: bool = True) -> Any:
        return add(self, parameters, align, False)

    with (
        mock.patch.object(core, "is_compiled_with_cuda", lambda: True),
        mock.patch.object(paddle, "get_device", lambda: "cpu:0"),
        mock.patch.object(storage.ParamStorage, "add_rank_params", add_on_cpu),
    ):
        if stage == 2:
            sharded = found.group_sharded_optimizer_stage2.GroupShardedOptimizerStage2
            optimizer = sharded(params=model.parameters(), optim=adam, **options)
            return found.group_sharded_stage2.GroupShardedStage2(model, optimizer, **options), optimizer
        adam._grad_clip = None
        wrapped = found.group_sharded_stage3.GroupShardedStage3(
            model, optimizer=adam, segment_size=0, sync_comm=True, **options
        )
    adam._grad_clip = HybridParallelClipGrad(clip, fleet.get_hybrid_communicate_group())
    return wrapped, adam
