"""Small models, prompts and logits that the CUDA kernels are checked on; the same numbers on every machine."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

NUM_BLOCKS = 128
VOCAB = 61
LENGTHS = (1, 270, 17, 33, 2)
"""Tokens of each prompt; 270 takes two chunks of split attention."""

_BASE = dict(
    num_layers=2, hidden=48, inner=80, heads=4, kv_heads=2, head_dim=32, vocab=VOCAB, rms_eps=1e-6, window=0,
    qk_norm=0, qkv_bias=0, output_bias=0, mlp_bias=0, tied=0, block_tokens=16, num_blocks=NUM_BLOCKS, max_positions=320,
)  # fmt: skip
FAMILIES: dict[str, dict[str, int | float]] = {
    "llama": _BASE,
    "biased": {**_BASE, "qkv_bias": 1, "output_bias": 1, "mlp_bias": 1, "kv_heads": 4, "block_tokens": 48},
    "window": {**_BASE, "window": 21, "heads": 7, "kv_heads": 1, "hidden": 50},
    "qwen3": {**_BASE, "qk_norm": 1, "tied": 1, "head_dim": 64, "heads": 6, "kv_heads": 2, "block_tokens": 32},
    "wide": {**_BASE, "head_dim": 128, "heads": 20, "kv_heads": 2, "num_layers": 1},
}

SAMPLINGS: dict[str, dict] = {
    "plain": {},
    "greedy": dict(do_sample=0),
    "hot": dict(temperature=1.7),
    "top_k": dict(top_k=5, temperature=0.7),
    "top_p": dict(top_p=0.8),
    "both": dict(top_k=20, top_p=0.5, temperature=1.3),
    "tiny_p": dict(top_p=1e-12),
    "penalised": dict(repetition_penalty=1.3, top_p=0.9),
    "stops": dict(stops=(3, 7, 10_000), usable_vocab=50),
    "greedy_restricted": dict(do_sample=0, repetition_penalty=1.5, stops=(3,), usable_vocab=40),
}


class Prompts(NamedTuple):
    """Ragged prompts and where their keys and values go."""

    tokens: list[np.ndarray]
    slots: list[int]
    block_tables: np.ndarray


def weight_shapes(sizes: dict) -> dict[str, tuple[int, ...]]:
    """Return the Hugging Face names and the shapes, matrices [in, out]."""
    hidden, inner, dim = sizes["hidden"], sizes["inner"], sizes["head_dim"]
    mixed, keys = sizes["heads"] * dim, sizes["kv_heads"] * dim
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (sizes["vocab"], hidden)}
    shapes["model.norm.weight"] = (hidden,)
    if not sizes["tied"]:
        shapes["lm_head.weight"] = (hidden, sizes["vocab"])
    matrices = {
        "self_attn.q_proj": (hidden, mixed, "qkv_bias"),
        "self_attn.k_proj": (hidden, keys, "qkv_bias"),
        "self_attn.v_proj": (hidden, keys, "qkv_bias"),
        "self_attn.o_proj": (mixed, hidden, "output_bias"),
        "mlp.gate_proj": (hidden, inner, "mlp_bias"),
        "mlp.up_proj": (hidden, inner, "mlp_bias"),
        "mlp.down_proj": (inner, hidden, "mlp_bias"),
    }
    for layer in range(sizes["num_layers"]):
        prefix = f"model.layers.{layer}."
        for name in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"{prefix}{name}.weight"] = (hidden,)
        if sizes["qk_norm"]:
            shapes |= {f"{prefix}self_attn.{name}_norm.weight": (dim,) for name in ("q", "k")}
        for name, (rows, cols, bias) in matrices.items():
            shapes[f"{prefix}{name}.weight"] = (rows, cols)
            if sizes[bias]:
                shapes[f"{prefix}{name}.bias"] = (cols,)
    return shapes


def draw_weights(sizes: dict, *, seed: int = 0, std: float = 0.2) -> dict[str, np.ndarray]:
    """Return float32 parameters; norms lie around 1."""
    generator = np.random.default_rng(seed)
    drawn = {}
    for name, shape in weight_shapes(sizes).items():
        centre = float(name.endswith("norm.weight"))
        drawn[name] = (centre + std * generator.standard_normal(shape)).astype(np.float32)
    return drawn


def rotary_tables(sizes: dict) -> tuple[np.ndarray, np.ndarray]:
    """Return cosines and sines [positions, head_dim / 2] float32."""
    dim = sizes["head_dim"]
    frequencies = 10_000.0 ** (-np.arange(0, dim, 2) / dim)
    angles = np.arange(sizes["max_positions"])[:, None] * frequencies
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def draw_prompts(sizes: dict, lengths: tuple[int, ...] = LENGTHS, *, seed: int = 0) -> Prompts:
    """Draw tokens, and slots and blocks in random order; table entries that no prompt needs are -1.

    ``seed`` moves the prompts to other slots and blocks; their tokens stay.
    """
    tokens = [np.random.default_rng([17, i]).integers(0, sizes["vocab"], n) for i, n in enumerate(lengths)]
    generator = np.random.default_rng(seed)
    slots = generator.permutation(len(lengths) + 2)[: len(lengths)].tolist()
    needed = [-(-length // sizes["block_tokens"]) for length in lengths]
    blocks = iter(generator.permutation(sizes["num_blocks"])[: sum(needed)])
    tables = np.full((len(lengths) + 2, max(needed)), -1)
    for slot, count in zip(slots, needed, strict=True):
        tables[slot, :count] = [next(blocks) for _ in range(count)]
    return Prompts(tokens, slots, tables)


def draw_logits(rows: int, vocab: int, *, seed: int = 0) -> np.ndarray:
    """Return logits [rows, V] with ties, and rows both flat and steep."""
    generator = np.random.default_rng([23, seed])
    logits = generator.standard_normal((rows, vocab)) * np.geomspace(0.1, 12.0, rows)[:, None]
    logits[0] = 0.5  # all tie
    logits[1] = np.round(logits[1] * 2) / 2
    return logits.astype(np.float32)


def checksum(arrays: list[np.ndarray]) -> float:
    """Return a number that tells whether two machines drew the same arrays."""
    return float(sum(np.abs(np.asarray(a, np.float64)).sum() * (i % 7 + 1) for i, a in enumerate(arrays)))
