"""Bytes of the two rollout engines in one process: between rollouts and during one."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from math import ceil

from alignment.architecture.cuts import layer_sizes
from alignment.architecture.families import EMBEDDING
from alignment.architecture.layout import Layout
from alignment.generation import sampling
from alignment.generation.eager import room
from alignment.generation.fused import fused_settings
from alignment.generation.fused.blocks import blocks_for, blocks_of_slot
from alignment.generation.fused.capabilities import cuda_length_obstacle, cuda_obstacle, model_obstacle
from alignment.generation.fused.fused_settings import TYPE_BYTES, FusedSettings, read_bytes
from alignment.ops import pieces
from alignment.planner.choices import recorded_by_eager_engine, recorded_by_fused_engine
from alignment.planner.counts.activations import Pass
from alignment.planner.counts.operators import FLOAT
from alignment.planner.counts.shapes import stage_layers
from alignment.planner.job import Job
from alignment.planner.rollout import CHOICES, PlannedRollout, RolloutMoment


class EagerMemory:
    """The eager engine, which uses weights in place and frees everything else when the rollout ends."""

    def __init__(self, rollout: PlannedRollout) -> None:
        self._rollout, self._job = rollout, rollout.job

    @cached_property
    def standing(self) -> Mapping[str, int]:
        """Bytes on the device between rollouts: weights from another layout, and the copy of a tied head."""
        tied = self._rollout.embedding * self._job.item if self._job.policy.tie_word_embeddings else 0
        return {"rollout weights": self._rollout.copied + (tied if self._rollout.makes_logits else 0)}

    @property
    def standing_on_host(self) -> Mapping[str, int]:
        """Bytes in host memory between rollouts."""
        return {}

    def moments(self) -> list[RolloutMoment]:
        """Return the moments of a rollout."""
        cache = {"key-value cache": self._cache}
        arrays = sampling.HOST_COPIES * self._rollout.rows * self._job.policy.vocab_size * FLOAT
        host = {"sampling": arrays if self._rollout.makes_logits and not self._job.half else 0}
        stages = self._rollout.inner.pipeline
        host[CHOICES] = recorded_by_eager_engine(self._job, rows=self._rollout.rows, num_stages=stages)
        return [
            RolloutMoment(name="weights arrive", device={"rollout weights": self._rollout.coming}),
            RolloutMoment(name="prefill", device={**cache, "activations": self._prompts}),
            RolloutMoment(name="decode step", device={**cache, "activations": self._step}, host=host),
        ]

    @cached_property
    def _layers(self) -> int:
        if self._job.eval_mode:
            return self._job.policy.num_hidden_layers
        return sum(stage_layers(self._job.policy, self._rollout.layout, self._rollout.stage))

    @cached_property
    def _capacity(self) -> int:
        """Cache positions of a full row."""
        return room.capacity(self._job.length, self._job.length)

    @cached_property
    def _cache(self) -> int:
        """Keys and values of full rows; while the cache grows for the last time, one layer's exist twice."""
        one = self._rollout.rows * self._capacity * self._pass(1).kv_heads * self._job.policy.head_dim * self._job.item
        return 2 * self._layers * one + (
            one if room.capacity(self._job.prompt, self._job.length) < self._capacity else 0
        )

    def _pass(self, rows: int) -> Pass:
        return Pass(
            config=self._job.policy,
            rows=rows,
            length=self._job.prompt,
            tensor=self._rollout.inner.tensor,
            sequence_parallel=False,
            item=self._job.item,
            native=self._job.native,
        )

    @cached_property
    def _group(self) -> int:
        """Rows that pass through the stages together."""
        return ceil(self._rollout.rows / self._rollout.inner.pipeline)

    @cached_property
    def _prompts(self) -> int:
        """Activations of a prefill step in one layer, and the logits of all prompts."""
        tokens = room.prompt_tokens(on_device=self._job.half)
        rows = min(self._group, max(1, tokens // self._job.prompt))
        return self._pass(rows).generating + 2 * self._group * self._rollout.columns * FLOAT

    @cached_property
    def _step(self) -> int:
        """One token of every row: scores over the whole cache, or logits in the model's dtype and in float32."""
        rows, whole = self._group, self._job.policy.vocab_size
        heads = rows * self._capacity * self._pass(1).heads * FLOAT
        logits = rows * self._rollout.columns * FLOAT
        gathered = 2 * rows * whole * FLOAT if self._rollout.inner.tensor > 1 and self._rollout.makes_logits else 0
        mask = heads * self._rollout.inner.pipeline
        keys = rows * self._capacity * self._pass(1).kv_heads * self._job.policy.head_dim * FLOAT
        widened = 2 * min(keys, pieces.WIDE_KEY_BYTES) if self._job.half else 0
        copies = sampling.DEVICE_COPIES * rows * whole * FLOAT if self._job.half and self._rollout.makes_logits else 0
        return mask + max(2 * heads + widened, logits + gathered + copies)


class FusedMemory:
    """The fused engine, which permanently holds its own weights, key-value blocks and scratch memory: on a GPU, or else
    in host memory.
    """

    def __init__(self, rollout: PlannedRollout) -> None:
        self._rollout, self._job = rollout, rollout.job
        self._config = self._job.policy

    @property
    def standing(self) -> Mapping[str, int]:
        """See ``EagerMemory.standing``."""
        return self._standing if self._job.on_gpu else {}

    @property
    def standing_on_host(self) -> Mapping[str, int]:
        """See ``EagerMemory.standing_on_host``."""
        return {} if self._job.on_gpu else self._standing

    @cached_property
    def _standing(self) -> Mapping[str, int]:
        return {"rollout weights": self._weights, "key-value cache": self._blocks, "scratch": self._scratch}

    def moments(self) -> list[RolloutMoment]:
        """See ``EagerMemory.moments``; weights arrive one by one, and a step needs its logits."""
        copies = 3 if self._rollout.inner.tensor > 1 else 1
        if self._job.on_gpu:
            copies += 1  # the sampler's workspace
        logits = {"sampling": copies * self._rollout.rows * self._config.vocab_size * FLOAT}
        own = self._weights if self._job.on_gpu else 0
        message = {"rollout weights": own + self._rollout.arriving}
        recorded = recorded_by_fused_engine(self._job, responses=self._rollout.responses)
        host = {CHOICES: recorded} if recorded else {}
        return [
            RolloutMoment(name="weights arrive", device=message if self._rollout.moved else {}),
            RolloutMoment(name="decode step", device=logits if own else {}, host=host if own else {**host, **logits}),
        ]

    @cached_property
    def _weights(self) -> int:
        """Matrices in the engine's dtype; int8 ones, and all on a CPU, have a head of their own even if it is tied."""
        narrow = TYPE_BYTES[self._job.rollout_weight_type]
        everything = sum(part.size for part in self._rollout.wanted)
        is_separate = self._config.tie_word_embeddings and not (self._job.on_gpu and narrow > 1)
        head = self._rollout.embedding if is_separate else 0
        embedding = self._rollout.embedding * (FLOAT if narrow == FLOAT else 2)
        scales = self._scales if self._job.on_gpu and narrow == 1 else 0
        return (everything - self._rollout.embedding + head) * narrow + embedding + scales

    @property
    def _scales(self) -> int:
        """A float for each output of the int8 matrices, whose rows a GPU pads."""
        unit, config = fused_settings.INT8_ROW_UNIT, self._config
        matrices = [part.extent for part in self._rollout.wanted if len(part.extent) == 2 and part.name != EMBEDDING]
        if config.tie_word_embeddings:
            matrices.append((config.hidden_size, self._rollout.embedding // config.hidden_size))
        return sum(outputs * (FLOAT + -inputs % unit) for inputs, outputs in matrices)

    @cached_property
    def _blocks(self) -> int:
        """The key-value blocks that full rows need, at most ``rollout_kv_memory``.

        A CPU never touches the blocks that no row needs at the moment, so they take no memory.
        """
        tokens = FusedSettings().block_tokens
        kv_heads = layer_sizes(self._config, tensor_degree=self._rollout.inner.tensor, tensor_index=0).kv_heads
        width = 2 * self._config.num_hidden_layers * kv_heads * self._config.head_dim
        count = blocks_of_slot if self._job.on_gpu else blocks_for
        filled = self._rollout.rows * count(self._job.length, tokens) * tokens
        needed = filled * width * TYPE_BYTES[self._job.rollout_kv_type]
        return min(needed, read_bytes(self._job.rollout_kv_memory)) if self._job.rollout_kv_memory else needed

    @cached_property
    def _scratch(self) -> int:
        """The rows of one pass: residuals, heads, normalised and attended rows, the gated feed-forward."""
        config, tensor = self._config, self._rollout.inner.tensor
        queries, keys = config.num_attention_heads, max(config.num_key_value_heads, tensor)
        mixed, projected = (heads * config.head_dim // tensor for heads in (queries, queries + 2 * keys))
        inner = layer_sizes(config, tensor_degree=tensor, tensor_index=0).inner
        if self._job.on_gpu:
            rows = max(fused_settings.ROWS_ON_DEVICE, self._rollout.rows)
            is_int8 = self._job.rollout_weight_type == "int8"  # its inputs have the type of keys and values
            inputs = self._job.rollout_kv_type if is_int8 else self._job.rollout_weight_type
            narrow = TYPE_BYTES[inputs] * (config.hidden_size + mixed + inner)
            chunks = blocks_for(self._job.length, fused_settings.POSITIONS_OF_SPLIT)
            split = self._rollout.rows * (queries // tensor) * chunks * (config.head_dim + 2) * FLOAT
            everything = rows * ((2 * config.hidden_size + projected + 2 * inner) * FLOAT + narrow) + split
            return everything + (0 if is_int8 else fused_settings.PRODUCT_WORKSPACE_BYTES)
        width = (3 if tensor > 1 else 2) * config.hidden_size + mixed + projected + inner
        width += 2 * (config.embedding_size or 0)
        rows = min(self._rollout.rows * max(self._job.prompt, 1), FusedSettings().max_rows)
        return rows * (width + self._expert_width) * FLOAT

    @property
    def _expert_width(self) -> int:
        """Numbers of a row for its experts: what they read, their inner numbers, what they give, and the scores."""
        experts, tensor = self._config.experts, self._rollout.inner.tensor
        if experts is None:
            return 0
        inner, shared = (-(-width // tensor) for width in (experts.inner, experts.shared_inner))
        partial = 0 if tensor > 1 else self._config.hidden_size
        return experts.top_k * (2 * self._config.hidden_size + inner) + shared + experts.count + partial


def rollout_engine(job: Job, inner: Layout) -> str:
    """Return ``fused`` or ``eager``: what ``runs.on_policy.engines`` would choose for a replica in the layout
    ``inner`` if the kernels can be loaded.
    """
    obstacle = model_obstacle(
        job.policy, tensor_degree=inner.tensor, expert_degree=inner.expert, num_stages=inner.pipeline
    )
    if job.on_gpu:
        obstacle = obstacle or cuda_obstacle(job.policy) or cuda_length_obstacle(job.policy, job.length)
    return "fused" if job.fused and obstacle is None else "eager"


def engine_memory(rollout: PlannedRollout) -> EagerMemory | FusedMemory:
    """Return the memory of the rollout's engine."""
    is_fused = rollout_engine(rollout.job, rollout.inner) == "fused"
    return FusedMemory(rollout) if is_fused else EagerMemory(rollout)
