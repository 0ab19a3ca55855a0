"""Bytes that one process sends per update of the learner, by axis of the layout.

With p processes in a ring each sends 2 (p - 1) / p of the tensor for a sum, (p - 1) / p for a gather or reduce-scatter.
"""

from __future__ import annotations

from alignment.architecture.decoder_config import DecoderConfig
from alignment.architecture.layout import Layout
from alignment.planner.counts.operators import FLOAT
from alignment.planner.counts.shapes import Held
from alignment.planner.job import LANGUAGE_MODELS, Job


def update_bytes(job: Job, layout: Layout, *, role: str = "", rows: int | None = None) -> dict[str, int]:
    """Return the bytes that one process of the first stage sends per update, by axis of the layout.

    ``role`` is the updated model (empty: the learner), ``rows`` the rows per micro-batch (None: the job's).
    """
    config = job.models[role or job.learner]
    tokens = (job.rows_per_batch if rows is None else rows) * job.length
    return {
        "tensor": job.micro_batches * _tensor_bytes(job, config, layout, tokens),
        "pipeline": job.micro_batches * _pipeline_bytes(job, config, layout, tokens),
        "batch": _gradient_bytes(job, role or job.learner, layout),
    }


def _tensor_bytes(job: Job, config: DecoderConfig, layout: Layout, tokens: int) -> int:
    """Per layer two sums of hidden states forward and two backward; recomputing repeats the forward ones."""
    t = layout.tensor
    layers = -(-config.num_hidden_layers // layout.pipeline)
    sums = 4 + (2 if job.recompute == "full" else 1 if job.recompute == "full_attn" else 0)
    return sums * layers * 2 * (t - 1) * tokens * config.hidden_size * job.item // t


def _pipeline_bytes(job: Job, config: DecoderConfig, layout: Layout, tokens: int) -> int:
    """Hidden states to the next stage, once per chunk; the gradients are sent by that stage."""
    if layout.pipeline == 1:
        return 0
    return layout.virtual_stages * tokens * config.hidden_size * job.item


def _gradient_bytes(job: Job, role: str, layout: Layout) -> int:
    """Gradients summed over sharding and data; weights gathered after the step (stage 3: at every use)."""
    kind = "causal" if role in LANGUAGE_MODELS else "score"
    parts = Held.of(job.models[role], kind, layout, 0, job.adapters.get(role))
    held = (parts.with_adapter if role in job.adapters else parts).elements
    s, d = layout.sharding, layout.data
    if layout.sharding_stage == 0:
        return 2 * (layout.batch - 1) * held * FLOAT // layout.batch
    scatters = job.micro_batches if layout.sharding_stage >= 2 else 1
    gathers = 2 * job.micro_batches if layout.sharding_stage == 3 else 1
    scatter = scatters * (s - 1) * held * FLOAT // s
    gather = gathers * (s - 1) * held * job.item // s
    replicas = 2 * (d - 1) * (held // s) * FLOAT // d
    return scatter + gather + replicas


def idle_share(job: Job, layout: Layout) -> float:
    """Return the share of an update in which a stage is idle (Narayanan et al. 2021, section 2.2)."""
    p = layout.pipeline
    return (p - 1) / (job.micro_batches * layout.virtual_stages + p - 1)


def layers_elements(config: DecoderConfig) -> int:
    """Return the number of weights in the matrices of all layers that a token is multiplied by.

    Of the experts these are the chosen ones.
    """
    queries = config.num_attention_heads * config.head_dim
    keys = config.num_key_value_heads * config.head_dim
    layers, width = config.num_hidden_layers, config.hidden_size
    inner, routed = config.intermediate_size, sum(map(config.has_experts, range(layers)))
    matrices = 3 if config.family.is_gated else 2
    total = layers * width * (2 * queries + 2 * keys) + (layers - routed) * matrices * width * inner
    if config.experts is None:
        return total
    experts = config.experts
    return total + routed * width * (matrices * (experts.top_k * experts.inner + experts.shared_inner) + experts.count)
