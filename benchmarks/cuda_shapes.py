"""Models that the fused engine is checked and timed with on csrc/cuda."""

from __future__ import annotations

from typing import Any

SMALL = dict(
    model_type="llama", vocab_size=61, hidden_size=48, intermediate_size=80, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, head_dim=32, max_position_embeddings=320,
)  # fmt: skip
SIZES: dict[str, dict[str, Any]] = {
    "0.5b": dict(hidden_size=896, intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14,
                 num_key_value_heads=2, head_dim=64, vocab_size=152064),
    "7b": dict(hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32,
               num_key_value_heads=32, head_dim=128, vocab_size=32000),
}  # fmt: skip


def core_sizes(shape: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of AcConfig that follow from a config.json, as in ``cuda_cases.FAMILIES``."""
    flags = dict.fromkeys(("qk_norm", "qkv_bias", "output_bias", "mlp_bias", "tied"), 0)
    return flags | dict(
        num_layers=shape["num_hidden_layers"], hidden=shape["hidden_size"], inner=shape["intermediate_size"],
        heads=shape["num_attention_heads"], kv_heads=shape["num_key_value_heads"], head_dim=shape["head_dim"],
        vocab=shape["vocab_size"],
    )  # fmt: skip
