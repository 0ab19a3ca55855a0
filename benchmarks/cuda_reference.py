"""A decoder in float64 by plain numpy: what the CUDA kernels are compared with."""

from __future__ import annotations

import numpy as np

Weights = dict[str, np.ndarray]


def logits_of(sizes: dict, weights: Weights, tables: tuple[np.ndarray, np.ndarray], tokens: np.ndarray) -> np.ndarray:
    """Return logits [T, V] of one sequence; ``tables``: cosines and sines [positions, head_dim / 2]."""
    wide = {name: values.astype(np.float64) for name, values in weights.items()}
    x = wide["model.embed_tokens.weight"][tokens]
    for layer in range(sizes["num_layers"]):
        prefix = f"model.layers.{layer}."
        part = {name.removeprefix(prefix): values for name, values in wide.items() if name.startswith(prefix)}
        x = x + _attend(sizes, part, tables, _norm(x, part["input_layernorm.weight"], sizes["rms_eps"]))
        x = x + _feed(part, _norm(x, part["post_attention_layernorm.weight"], sizes["rms_eps"]))
    head = wide["model.embed_tokens.weight"].T if sizes["tied"] else wide["lm_head.weight"]
    return _norm(x, wide["model.norm.weight"], sizes["rms_eps"]) @ head


def round_to_bfloat16(values: np.ndarray) -> np.ndarray:
    """Return float32 numbers that bfloat16 holds, rounded to nearest even."""
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def round_to_bytes(weights: Weights, sizes: dict) -> tuple[dict, Weights]:
    """Return the model that int8 weights hold, whose head is its own: matrices as whole numbers up to 127 times a scale
    for each output, the embedding in bfloat16.
    """

    def whole(matrix: np.ndarray) -> np.ndarray:
        scales = np.abs(matrix).max(0) / np.float32(127)
        return np.rint(matrix * (1 / scales)) * scales

    embedding, held = "model.embed_tokens.weight", dict(weights)
    if sizes["tied"]:
        held["lm_head.weight"] = weights[embedding].T
    held = {name: whole(x) if x.ndim > 1 and name != embedding else x for name, x in held.items()}
    return sizes | {"tied": 0}, held | {embedding: round_to_bfloat16(weights[embedding])}


def as_bfloat16(values: np.ndarray) -> np.ndarray:
    """Return the bits [uint16] of numbers that bfloat16 holds."""
    return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


def _norm(x: np.ndarray, weight: np.ndarray, eps: float) -> np.ndarray:
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight


def _project(part: Weights, name: str, x: np.ndarray) -> np.ndarray:
    return x @ part[f"{name}.weight"] + part.get(f"{name}.bias", 0.0)


def _feed(part: Weights, x: np.ndarray) -> np.ndarray:
    gate = _project(part, "mlp.gate_proj", x)
    return _project(part, "mlp.down_proj", gate / (1 + np.exp(-gate)) * _project(part, "mlp.up_proj", x))


def _attend(sizes: dict, part: Weights, tables: tuple[np.ndarray, np.ndarray], x: np.ndarray) -> np.ndarray:
    length, dim, group = len(x), sizes["head_dim"], sizes["heads"] // sizes["kv_heads"]
    heads = {name: _project(part, f"self_attn.{name}_proj", x).reshape(length, -1, dim) for name in "qkv"}
    for name in "qk":
        if sizes["qk_norm"]:
            heads[name] = _norm(heads[name], part[f"self_attn.{name}_norm.weight"], sizes["rms_eps"])
        heads[name] = _rotate(heads[name], tables)
    keys, values = (np.repeat(heads[name], group, axis=1) for name in "kv")
    scores = np.einsum("qhd,khd->hqk", heads["q"], keys) / np.sqrt(dim)
    distance = np.arange(length)[:, None] - np.arange(length)[None, :]
    scores[:, (distance < 0) | (distance >= (sizes["window"] or length))] = -np.inf
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    mixed = np.einsum("hqk,khd->qhd", shares / shares.sum(-1, keepdims=True), values)
    return _project(part, "self_attn.o_proj", mixed.reshape(length, -1))


def _rotate(x: np.ndarray, tables: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    cosines, sines = (table[: len(x), None, :].astype(np.float64) for table in tables)
    a, b = np.split(x, 2, axis=-1)
    return np.concatenate([a * cosines - b * sines, b * cosines + a * sines], axis=-1)
