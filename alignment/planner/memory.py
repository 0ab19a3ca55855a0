"""Memory of every phase in one process: the four models, gradients, optimizer, activations, cache, and offloading."""

from __future__ import annotations

from collections.abc import Mapping

from alignment.models.config import DecoderConfig
from alignment.models.split_plan import parts_of_rank, whole_shapes
from alignment.parallel.layout import Layout
from alignment.planner.activations import Pass
from alignment.planner.job import Job

PHASES = ("rollout", "score", "update")
_FLOAT = 4
_ADAM_BYTES = 8
"""Two float32 moments."""

Components = Mapping[str, int]
"""Bytes by what they are for."""


def phase_memory(job: Job, layout: Layout) -> dict[str, dict[str, int]]:
    """Return the bytes of the fullest process in each phase, by component."""
    stages = [_stage_memory(job, layout, stage) for stage in range(layout.pipeline)]
    return {phase: max((s[phase] for s in stages), key=lambda parts: sum(parts.values())) for phase in PHASES}


def peak(memory: Mapping[str, Components]) -> int:
    """Return the bytes of the largest phase."""
    return max(sum(parts.values()) for parts in memory.values())


def _stage_memory(job: Job, layout: Layout, stage: int) -> dict[str, dict[str, int]]:
    trained = {name: _elements(config, kind, layout, stage) for name, config, kind in _trained(job)}
    frozen = _frozen_bytes(job, layout, stage)
    weights = {f"{name} weights": _weights(job, layout, count) for name, count in trained.items()}
    optimizer = {"optimizer": sum(_optimizer(job, layout, count) for count in trained.values())}
    kept = {} if "freeze_model" in job.offloaded else frozen
    idle_weights = {} if "train_model" in job.offloaded else weights
    idle_optimizer = {} if "optimizer" in job.offloaded else optimizer
    policy = {"policy weights": weights["policy weights"]}
    return {
        "rollout": {**kept, **idle_weights, **policy, **idle_optimizer, **_rollout(job, layout, stage)},
        "score": {**frozen, **weights, **idle_optimizer, **_score(job, layout, stage)},
        "update": {**kept, **weights, **optimizer, **_gradients(job, layout, trained), **_update(job, layout, stage)},
    }


def _trained(job: Job) -> tuple[tuple[str, DecoderConfig, str], ...]:
    return ("policy", job.policy, "causal"), ("critic", job.critic, "score")


def _elements(config: DecoderConfig, kind: str, layout: Layout, stage: int) -> int:
    """Return the parameters the first tensor process of ``stage`` holds."""
    rank = stage * layout.tensor * layout.sharding
    return sum(part.size for part in parts_of_rank(config, kind, layout, rank))


def _share(layout: Layout, stage: int) -> int:
    """Return over how many processes something is cut that is cut from sharding ``stage`` on."""
    return layout.sharding if layout.sharding_stage >= stage else 1


def _weights(job: Job, layout: Layout, elements: int) -> int:
    return elements * job.weight_bytes // _share(layout, 3)


def _optimizer(job: Job, layout: Layout, elements: int) -> int:
    return elements * (_ADAM_BYTES + (_FLOAT if job.half else 0)) // _share(layout, 1)


def _gradients(job: Job, layout: Layout, trained: Mapping[str, int]) -> dict[str, int]:
    """Gradients of one model at a time: each is applied and freed before the next; held in float32."""
    return {"gradients": max(trained.values()) * _FLOAT // _share(layout, 2)}


def _frozen_bytes(job: Job, layout: Layout, stage: int) -> dict[str, int]:
    found = {"reference weights": _weights(job, layout, _elements(job.policy, "causal", layout, stage))}
    if job.reward is not None:
        found["reward weights"] = _weights(job, layout, _elements(job.reward, "score", layout, stage))
    return found


def _layers(config: DecoderConfig, layout: Layout) -> int:
    return -(-config.num_hidden_layers // layout.pipeline)


def _pass(job: Job, layout: Layout, config: DecoderConfig, rows: int) -> Pass:
    return Pass(
        config=config,
        rows=rows,
        length=job.length,
        tensor=layout.tensor,
        sequence_parallel=layout.sequence_parallel,
        item=job.weight_bytes,
    )


def _update(job: Job, layout: Layout, stage: int) -> dict[str, int]:
    """Activations of the model that keeps more; early stages hold several micro-batches in flight."""
    in_flight = min(job.micro_batches, layout.pipeline - stage)
    sizes = []
    for config, recompute in ((job.policy, job.recompute), (job.critic, job.critic_recompute)):
        step = _pass(job, layout, config, job.rows_per_batch)
        kept = in_flight * step.kept(_layers(config, layout), recompute=recompute)
        head = stage == layout.pipeline - 1 and config is job.policy
        logits = step.head(job.rows_per_batch * job.response, copies=3) if head else 0
        sizes.append(kept + step.transient + logits + _gathered_layer(job, layout, config))
    return {"activations": max(sizes)}


def _score(job: Job, layout: Layout, stage: int) -> dict[str, int]:
    configs = [job.policy, job.critic, *([job.reward] if job.reward else [])]
    sizes = []
    for config in configs:
        step = _pass(job, layout, config, job.score_rows)
        head = stage == layout.pipeline - 1 and config is job.policy
        logits = step.head(job.score_rows * job.response, copies=3) if head else 0
        sizes.append(step.transient + step.shared + 2 * step.boundary + logits + _gathered_layer(job, layout, config))
    return {"activations": max(sizes)}


def _gathered_layer(job: Job, layout: Layout, config: DecoderConfig) -> int:
    """Stage 3 brings the weights of about two layers together at a time, or the largest single matrix."""
    if _share(layout, 3) == 1:
        return 0
    sizes = {name: _size(shape) // layout.tensor for name, shape in whole_shapes(config, "causal").items()}
    layer = sum(size for name, size in sizes.items() if name.startswith("model.layers.0."))
    return max(2 * layer, max(sizes.values())) * job.weight_bytes


def _rollout(job: Job, layout: Layout, stage: int) -> dict[str, int]:
    """The cache of keys and values, one step's activations and logits, and the weights of another rollout layout."""
    config = job.policy
    tensor, layers, replicas = _rollout_shape(job, layout)
    rows = -(-job.rollout_rows * layout.batch // replicas) if job.eval_mode else job.rollout_rows
    keys = max(config.num_key_value_heads // tensor, 1) * config.head_dim
    cache = 2 * rows * job.length * layers * keys * job.weight_bytes
    logits = rows * config.vocab_size * _FLOAT * 4
    copies = {}
    if job.eval_mode or _share(layout, 3) > 1:
        elements = sum(_size(shape) for shape in whole_shapes(config, "causal").values())
        share = tensor * (1 if job.eval_mode else layout.pipeline)
        copies = {"rollout weights": elements * job.weight_bytes // share}
    return {"key-value cache": cache, "sampling": logits, **copies}


def _rollout_shape(job: Job, layout: Layout) -> tuple[int, int, int]:
    """Return (tensor degree, layers of a process, rollout replicas)."""
    layers = job.policy.num_hidden_layers
    if job.eval_mode == "single":
        return 1, layers, layout.world_size
    if job.eval_mode == "tensor_parallel":
        return job.rollout_tensor, layers, layout.world_size // job.rollout_tensor
    return layout.tensor, _layers(job.policy, layout), layout.batch


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for extent in shape:
        size *= extent
    return size
