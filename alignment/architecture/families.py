"""The table of each model family, from which config, decoder, cuts, files, engines and planner are derived."""

from __future__ import annotations

from alignment.architecture.family import Family, PaddleNLP, Weight
from alignment.errors import ModelFolderError
from alignment.registry import Registry

OUTSIDE = (
    Weight("embedding", "model.embed_tokens", ("vocabulary", "hidden"), "embedding", "rows"),
    Weight("norm", "model.norm", ("hidden",), "norm"),
    Weight("score", "score", ("hidden", "one"), bias="score_bias"),
    Weight("head", "lm_head", ("hidden", "vocabulary"), cut="columns"),
)
"""The weights outside the layers, in every family: score models have ``score``, language models ``head``."""
EMBEDDING, FINAL_NORM, SCORE, LM_HEAD = (f"{weight.name}.weight" for weight in OUTSIDE)
GATING = "gating."
"""Prefix of the numbered layers of a score model's gating network."""

_ATTENTION = (
    Weight("queries", "self_attn.q_proj", ("hidden", "queries"), cut="columns", bias="attention_bias"),
    Weight("keys", "self_attn.k_proj", ("hidden", "keys"), cut="columns", bias="attention_bias"),
    Weight("values", "self_attn.v_proj", ("hidden", "keys"), cut="columns", bias="attention_bias"),
    Weight("output", "self_attn.o_proj", ("queries", "hidden"), cut="rows", bias="attention_output_bias"),
)
_FEED_FORWARD = (
    Weight("gate", "mlp.gate_proj", ("hidden", "inner"), cut="columns", bias="mlp_bias"),
    Weight("up", "mlp.up_proj", ("hidden", "inner"), cut="columns", bias="mlp_bias"),
    Weight("down", "mlp.down_proj", ("inner", "hidden"), cut="rows", bias="mlp_bias"),
)
_HEAD_NORMS = (
    Weight("query_norm", "self_attn.q_norm", ("head",), "norm", needs="qk_norm"),
    Weight("key_norm", "self_attn.k_norm", ("head",), "norm", needs="qk_norm"),
)
_NORMS = (
    Weight("input_norm", "input_layernorm", ("hidden",), "norm"),
    Weight("feed_norm", "post_attention_layernorm", ("hidden",), "norm"),
)
LLAMA_LAYER = (*_ATTENTION, *_FEED_FORWARD, *_HEAD_NORMS, *_NORMS)

FAMILIES: Registry[Family] = Registry("model family", ModelFolderError)


def register(family: Family) -> Family:
    """Register a family under its ``model_type`` and aliases."""
    return FAMILIES.register(family.name, family, family.aliases)


register(
    Family(
        name="llama",
        class_prefix="Llama",
        aliases=("internlm",),
        layer=LLAMA_LAYER,
        flags={"attention_bias": "attention_bias", "attention_output_bias": "attention_bias", "mlp_bias": "mlp_bias"},
        defaults={"max_position_embeddings": 2048, "bos_token_id": 1},
        paddlenlp=PaddleNLP(scales_rope=True),
    )
)
register(
    Family(
        name="mistral",
        class_prefix="Mistral",
        layer=LLAMA_LAYER,
        window="always",
        defaults={"max_position_embeddings": 131072, "sliding_window": 4096, "bos_token_id": 1},
        default_kv_heads=8,
        paddlenlp=PaddleNLP(ties_head=False, zeroes_padding=True),
    )
)
register(
    Family(
        name="qwen2",
        class_prefix="Qwen2",
        layer=LLAMA_LAYER,
        flags={"attention_bias": True},
        window="asked",
        defaults={"max_position_embeddings": 32768, "sliding_window": 4096},
        default_kv_heads=32,
        paddlenlp=PaddleNLP(),
    )
)
register(
    Family(
        name="qwen3",
        class_prefix="Qwen3",
        layer=LLAMA_LAYER,
        flags={"attention_bias": "attention_bias", "attention_output_bias": "attention_bias", "qk_norm": True},
        window="asked",
        defaults={"max_position_embeddings": 32768, "sliding_window": 4096, "head_dim": 128},
        default_kv_heads=32,
    )
)
