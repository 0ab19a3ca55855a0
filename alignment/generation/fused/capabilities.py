"""Decide which models the kernels can run, without importing Paddle."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from alignment.architecture.cuts import expert_share, layer_sizes
from alignment.architecture.parts import even_cut
from alignment.architecture.rotary_frequencies import SCALINGS
from alignment.generation.engine import missing_features

KERNEL_FLAGS: Mapping[str, str] = MappingProxyType(
    {
        "qk_norm": "qk_norm",
        "qkv_bias": "attention_bias",
        "output_bias": "attention_output_bias",
        "mlp_bias": "mlp_bias",
        "tied": "tie_word_embeddings",
    }
)
"""The kernels' switches and the corresponding flags of DecoderConfig."""
KERNEL_ACTIVATIONS = ("silu", "gelu_tanh", "gelu", "relu")
"""AcActivation, by its number."""
CUDA_FEATURES = frozenset(
    {*KERNEL_FLAGS.values(), "sliding_window", "norm=rms", "activation=silu"}
    | {f"rope_type={kind}" for kind in SCALINGS}
)
"""What the CUDA kernels compute."""
FEATURES = (
    CUDA_FEATURES
    | {"norm=rms+1", "norm=layer", "norm_bias", "scaled_embedding", "learned_positions", "feed_forward=plain"}
    | {"experts", "parallel_block", "shared_norm", "norms=after", "norms=none before", "norms=all heads"}
    | {"norms_sums", "embedding_size", "head_bias", "full_layers", "rope_local_base_freq"}
    | {"attention_cap", "logit_cap", "query_pre_attn_scalar"}
    | {f"activation={kind}" for kind in KERNEL_ACTIVATIONS}
)
"""What the CPU kernels compute."""


CUDA_HEAD_DIMS = (32, 64, 128)
CUDA_MOST_TOKENS = 1_280_000
"""Largest vocabulary of the sampler on a GPU."""


def cuda_obstacle(config: Any) -> str | None:
    """Return in one line why the CUDA kernels cannot run ``config`` although a CPU's can, None when they can."""
    missing = missing_features(config, CUDA_FEATURES)
    if missing:
        return f"the CUDA kernels cannot compute {', '.join(missing)} of this {config.model_type} model"
    if config.head_dim not in CUDA_HEAD_DIMS:
        return f"the CUDA kernels need head_dim {', '.join(map(str, CUDA_HEAD_DIMS))}, the model has {config.head_dim}"
    if config.vocab_size > CUDA_MOST_TOKENS:
        return f"the CUDA kernels need a vocabulary up to {CUDA_MOST_TOKENS}, the model has {config.vocab_size}"
    return None


def model_obstacle(
    config: Any, *, tensor_degree: int = 1, tensor_index: int = 0, expert_degree: int = 1, num_stages: int = 1
) -> str | None:
    """Return in one line why the kernels cannot run ``config`` (a DecoderConfig) in a layout, None if they can."""
    missing = missing_features(config, FEATURES)
    if missing:
        return f"the fused engine cannot compute {', '.join(missing)} of this {config.model_type} model"
    if num_stages > 1:
        return f"the fused engine needs all layers in one process, pipeline_parallel_degree={num_stages}"
    widths = {"hidden": config.hidden_size, **_inner_widths(config, tensor_degree, tensor_index, expert_degree)}
    widths |= {"embedding": config.embedding_size} if config.embedding_size else {}
    odd = [f"{name} {size}" for name, size in widths.items() if size % 2]
    return f"the kernels need even widths, a process has {' and '.join(odd)}" if odd else None


def cuda_length_obstacle(config: Any, longest: int) -> str | None:
    """Return in one line why the CUDA kernels cannot run sequences of ``longest`` tokens, None if they can."""
    if config.angle_limit is None or longest <= config.angle_limit:
        return None
    return (
        f"the CUDA kernels have the rotary angles of rows up to original_max_position_embeddings={config.angle_limit} "
        f"only, max_length={longest}"
    )


def _inner_widths(config: Any, tensor_degree: int, tensor_index: int, expert_degree: int) -> dict[str, int]:
    """Return a process's columns of each kind of feed-forward network that the model has."""
    experts, found = config.experts, {}
    if experts is None or experts.dense_layers:
        found["inner"] = layer_sizes(config, tensor_degree=tensor_degree, tensor_index=tensor_index).inner
    if experts is not None:
        share = expert_share(config, tensor_degree, tensor_index, expert_degree)
        start, stop = even_cut(experts.inner, share.degree, share.index)
        shared_start, shared_stop = even_cut(experts.shared_inner, tensor_degree, tensor_index)
        found |= {"an expert's inner": stop - start, "the shared expert's inner": shared_stop - shared_start}
    return found
