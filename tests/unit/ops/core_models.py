"""Small models in the kernel library, and prompts to run through them."""

from __future__ import annotations

import platform
from typing import NamedTuple

import numpy as np
import paddle
import pytest

from alignment.architecture.decoder_config import DecoderConfig
from alignment.generation.fused.packing import pack_every, share_sizes
from alignment.models.decoder.decoder import CausalLM
from alignment.models.decoder.initialise import draw_weights
from alignment.ops.native.core_model import CoreModel
from alignment.ops.native.library import CoreLibrary
from alignment.parallel.comms.group import Group
from tests.tiny_models import in_own_names

SHAPE = dict(
    vocab_size=83,
    hidden_size=48,
    intermediate_size=72,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=128,
)
EXPERTS = dict(num_experts=5, num_local_experts=5, num_experts_per_tok=3, moe_intermediate_size=20)
FAMILIES = {
    "llama": dict(model_type="llama"),
    "biased": dict(model_type="llama", attention_bias=True, mlp_bias=True, num_key_value_heads=4),
    "scaled": dict(
        model_type="llama",
        head_dim=16,
        rope_scaling={"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
    ),
    "window": dict(model_type="mistral", sliding_window=21),
    "narrow_window": dict(model_type="mistral", sliding_window=3, num_key_value_heads=1),
    "qwen2": dict(model_type="qwen2", tie_word_embeddings=True),
    "qwen3": dict(model_type="qwen3", head_dim=20, num_attention_heads=6),
    "gemma": dict(model_type="gemma", head_dim=20, num_key_value_heads=1),
    "gpt2": dict(model_type="gpt2"),
    "opt 350m": dict(model_type="opt", word_embed_proj_dim=26, do_layer_norm_before=False),
    "mixtral": dict(model_type="mixtral", num_local_experts=6, num_experts_per_tok=2, sliding_window=None),
    "qwen2_moe": dict(model_type="qwen2_moe", **EXPERTS, shared_expert_intermediate_size=26, mlp_only_layers=[1]),
    "qwen3_moe": dict(model_type="qwen3_moe", **EXPERTS, norm_topk_prob=True, head_dim=12),
    "many_heads": dict(model_type="llama", num_attention_heads=30, num_key_value_heads=2, head_dim=32),
}
ISAS = (
    ("scalar", "neon") if platform.machine() == "aarch64" else ("scalar", "avx2", "avx512", "avx512bf16", "avx512amx")
)
LENGTHS = (1, 70, 17, 33, 2)
NUM_BLOCKS = 64


class Prompts(NamedTuple):
    """Ragged prompts and where their keys and values go."""

    tokens: list[np.ndarray]
    slots: list[int]
    block_tables: np.ndarray


def try_isa(library: CoreLibrary, isa: str) -> None:
    """Use ``isa`` or skip the test."""
    try:
        library.set_isa(isa)
    except RuntimeError:
        pytest.skip(f"no {isa} here")


def build(family: str, **changes: int) -> CausalLM:
    """Return a model whose norms and biases are not trivial."""
    model = CausalLM(DecoderConfig.from_dict(in_own_names({**SHAPE, **FAMILIES[family], **changes})))
    draw_weights(model, seed=0, std=0.2)
    generator = np.random.default_rng(1)
    for name, parameter in model.named_parameters():
        if len(parameter.shape) == 1:
            centre = float(name.endswith("norm.weight"))
            parameter.set_value(generator.normal(centre, 0.2, parameter.shape).astype(np.float32))
    return model


def sizes_of(config: DecoderConfig, *, ranks: int = 1, block_tokens: int = 16) -> dict[str, int | float]:
    """Return the sizes of one of ``ranks`` tensor-parallel parts of a model."""
    return share_sizes(config, Group("tensor", range(ranks))) | dict(
        block_tokens=block_tokens,
        num_blocks=NUM_BLOCKS,
        max_positions=config.max_position_embeddings,
    )


def pack(
    library: CoreLibrary, model: CausalLM, *, weight_type="float32", kv_type="float32", block_tokens=16
) -> CoreModel:
    """Return ``model`` in the kernel library."""
    config = model.config
    sizes = sizes_of(config, block_tokens=block_tokens)
    core = library.create_model(sizes, weight_type=weight_type, kv_type=kv_type)

    def set_weight(name: str, tensor: paddle.Tensor) -> None:
        values = tensor.numpy()
        core.set_weight(name, values.ctypes.data, dtype="float32", shape=values.shape)

    with paddle.no_grad():
        pack_every(config, model.named_parameters(), set_weight)
    core.set_rotary(*rotary_tables(config))
    return core


def rotary_tables(config: DecoderConfig) -> tuple[np.ndarray, np.ndarray]:
    """Return cos and sin [positions, D / 2]."""
    frequencies, scale = config.rotary_frequencies()
    angles = np.arange(config.max_position_embeddings, dtype=np.float32)[:, None] * frequencies
    return np.cos(angles) * np.float32(scale), np.sin(angles) * np.float32(scale)


def draw_prompts(lengths=LENGTHS, *, seed=0, block_tokens=16) -> Prompts:
    """Draw tokens, slots and blocks in random order."""
    generator = np.random.default_rng(seed)
    tokens = [generator.integers(0, SHAPE["vocab_size"], length) for length in lengths]
    slots = generator.permutation(len(lengths) + 2)[: len(lengths)].tolist()
    per_slot = -(-max(lengths) // block_tokens)
    blocks = generator.permutation(NUM_BLOCKS)[: len(slots) * per_slot].reshape(len(slots), per_slot)
    tables = np.full((len(lengths) + 2, per_slot), -1)
    for slot, row in zip(slots, blocks, strict=True):
        tables[slot] = row
    return Prompts(tokens, slots, tables)


def forward(core: CoreModel, prompts: Prompts, spans: list[tuple[int, int, int]], threads=1) -> np.ndarray:
    """Return the logits of every row of ``spans`` (prompt, begin, end), computed in one call."""
    places = [np.arange(begin, end) for _, begin, end in spans]
    tokens = np.concatenate([prompts.tokens[i][place] for (i, _, _), place in zip(spans, places, strict=True)])
    slots = np.repeat([prompts.slots[i] for i, _, _ in spans], [len(place) for place in places])
    return core.forward(
        tokens,
        slots,
        np.concatenate(places),
        block_tables=prompts.block_tables,
        logit_rows=np.arange(len(tokens)),
        threads=threads,
    )


def whole(prompts: Prompts) -> list[tuple[int, int, int]]:
    """Return the spans of whole prompts."""
    return [(i, 0, len(tokens)) for i, tokens in enumerate(prompts.tokens)]


def expected(model: CausalLM, prompts: Prompts) -> np.ndarray:
    """Return the decoder's logits of every prompt's every token."""
    with paddle.no_grad():
        return np.concatenate([model(tokens[None]).numpy()[0] for tokens in prompts.tokens])


def by_steps(core: CoreModel, prompts: Prompts, chunk: int, threads=1) -> np.ndarray:
    """Return the same logits from calls that take ``chunk`` tokens of every prompt that still has some."""
    found = [[] for _ in prompts.tokens]
    for begin in range(0, max(map(len, prompts.tokens)), chunk):
        spans = [(i, begin, min(begin + chunk, len(t))) for i, t in enumerate(prompts.tokens) if begin < len(t)]
        logits = forward(core, prompts, spans, threads)
        for (i, _, _), rows in zip(spans, np.split(logits, np.cumsum([e - b for _, b, e in spans])[:-1]), strict=True):
            found[i].append(rows)
    return np.concatenate([np.concatenate(rows) for rows in found])
