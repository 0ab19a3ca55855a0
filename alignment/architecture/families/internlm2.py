"""InternLM-2, whose code is on the hub and not in transformers."""

from __future__ import annotations

from alignment.architecture.family import Family, FileMatrix, Files
from alignment.architecture.layer_weights import LLAMA_LAYER

FAMILY = Family(
    name="internlm2",
    class_prefix="InternLM2",
    layer=LLAMA_LAYER,
    flags=dict.fromkeys(("attention_bias", "attention_output_bias"), "bias"),
    defaults={"max_position_embeddings": 2048, "bias": False, "bos_token_id": 1, "pad_token_id": 2},
    files=Files(
        names={
            "model.embed_tokens": "model.tok_embeddings",
            "lm_head": "output",
            "input_layernorm": "attention_norm",
            "post_attention_layernorm": "ffn_norm",
        },
        matrices=(
            FileMatrix(name="attention.wqkv", roles=("queries", "keys", "values"), by_group=True),
            FileMatrix(name="attention.wo", roles=("output",)),
            FileMatrix(name="feed_forward.w1", roles=("gate",)),
            FileMatrix(name="feed_forward.w3", roles=("up",)),
            FileMatrix(name="feed_forward.w2", roles=("down",)),
        ),
    ),
)
