"""Falcon, with the old and the new decoder; not with ALiBi."""

from __future__ import annotations

from typing import Any

from alignment.architecture.families.gpt2 import four_times_hidden
from alignment.architecture.family import Family, FileMatrix, Files
from alignment.architecture.layer_weights import ATTENTION, NORMS, PLAIN_FEED_FORWARD

_NAMES = {
    "model.embed_tokens": "transformer.word_embeddings",
    "model.norm": "transformer.ln_f",
}
_TWO_NORMS = {"input_layernorm": "ln_attn", "post_attention_layernorm": "ln_mlp"}


def _complete(given: dict[str, Any]) -> dict[str, Any]:
    """Say the number of key heads, and which norms there are."""
    heads = given.get("num_attention_heads")
    is_new = bool(given.get("new_decoder_architecture"))
    kv_heads = given.get("num_key_value_heads") if is_new else 1 if given.get("multi_query") else heads
    norms = given.get("num_ln_in_parallel_attn")
    has_two = is_new and norms in (None, 2)
    return {
        **given,
        "num_key_value_heads": kv_heads,
        "intermediate_size": four_times_hidden(given),
        "parallel_attn": is_new or bool(given.get("parallel_attn")),
        "shares_norm": not has_two and (is_new or bool(given.get("parallel_attn"))),
    }


def _files(config: Any) -> Files:
    has_two = config.parallel_block and not config.shared_norm
    return Files(
        layers="transformer.h.",
        names=_NAMES | (_TWO_NORMS if has_two else {}),
        matrices=(
            FileMatrix(name="self_attention.query_key_value", roles=("queries", "keys", "values"), by_group=True),
            FileMatrix(name="self_attention.dense", roles=("output",)),
            FileMatrix(name="mlp.dense_h_to_4h", roles=("up",)),
            FileMatrix(name="mlp.dense_4h_to_h", roles=("down",)),
        ),
    )


FAMILY = Family(
    name="falcon",
    class_prefix="Falcon",
    aliases=("RefinedWeb", "RefinedWebModel"),
    layer=(*ATTENTION, *PLAIN_FEED_FORWARD, *NORMS),
    flags={
        **dict.fromkeys(("attention_bias", "attention_output_bias", "mlp_bias"), "bias"),
        "norm_bias": True,
        "parallel_block": "parallel_attn",
        "shared_norm": "shares_norm",
    },
    norm="layer",
    activations={"gelu": "gelu", "gelu_new": "gelu_tanh", "relu": "relu", "silu": "silu"},
    keys={
        "num_key_value_heads": "num_kv_heads",
        "intermediate_size": "ffn_hidden_size",
        "rms_norm_eps": "layer_norm_epsilon",
        "hidden_act": "activation",
    },
    absent=("head_dim", "sliding_window", "shares_norm"),
    fixed={"alibi": (False, None)},
    complete=_complete,
    defaults={
        "hidden_act": "gelu",
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 2048,
        "new_decoder_architecture": False,
        "multi_query": True,
        "parallel_attn": True,
        "bias": False,
        "tie_word_embeddings": True,
        "bos_token_id": 11,
    },
    files=_files,
)
