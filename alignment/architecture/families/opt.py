"""OPT; the norms of the 350M model come after the sums, and its embedding is narrower than its layers."""

from __future__ import annotations

from typing import Any

from alignment.architecture.family import Family, FileMatrix, Files
from alignment.architecture.layer_weights import ATTENTION, NORMS, PLAIN_FEED_FORWARD


def _complete(given: dict[str, Any]) -> dict[str, Any]:
    width = given["embedding_size"]
    return {**given, "rms_norm_eps": 1e-5, "embedding_size": None if width == given["hidden_size"] else width}


FAMILY = Family(
    name="opt",
    class_prefix="OPT",
    layer=(*ATTENTION, *PLAIN_FEED_FORWARD, *NORMS),
    flags={
        **dict.fromkeys(("attention_bias", "attention_output_bias", "mlp_bias"), "enable_bias"),
        "norm_bias": True,
        "learned_positions": True,
        "norms_sums": "not do_layer_norm_before",
    },
    norm="layer",
    position_offset=2,
    activations={"relu": "relu", "gelu": "gelu", "gelu_new": "gelu_tanh"},
    keys={
        "intermediate_size": "ffn_dim",
        "hidden_act": "activation_function",
        "initializer_range": "init_std",
        "embedding_size": "word_embed_proj_dim",
    },
    absent=(
        *("num_key_value_heads", "head_dim", "sliding_window"),
        *("rope_theta", "rope_scaling", "rope_parameters", "partial_rotary_factor"),
    ),
    fixed={
        "_remove_final_layer_norm": (False,),
        "layer_norm_elementwise_affine": (True,),
    },
    complete=_complete,
    defaults={
        "vocab_size": 50272,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "max_position_embeddings": 2048,
        "enable_bias": True,
        "do_layer_norm_before": True,
        "hidden_act": "relu",
        "tie_word_embeddings": True,
        "bos_token_id": 2,
        "pad_token_id": 1,
    },
    files=Files(
        layers="model.decoder.layers.",
        names={
            "model.embed_tokens": "model.decoder.embed_tokens",
            "model.embed_positions": "model.decoder.embed_positions",
            "model.project_in": "model.decoder.project_in",
            "model.project_out": "model.decoder.project_out",
            "model.norm": "model.decoder.final_layer_norm",
            "input_layernorm": "self_attn_layer_norm",
            "post_attention_layernorm": "final_layer_norm",
            "mlp.up_proj": "fc1",
            "mlp.down_proj": "fc2",
        },
        matrices=(FileMatrix(name="self_attn.out_proj", roles=("output",)),),
    ),
)
