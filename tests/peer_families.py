"""Small models of transformers, one or more for each family; tests of families are run for every row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

SHAPE = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 44,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A configuration of transformers."""

    class_name: str
    model_type: str
    shape: Mapping[str, Any] = field(default_factory=dict)
    """Keys that differ from ``SHAPE``."""
    without: tuple[str, ...] = ()
    """Keys of ``SHAPE`` that the family does not have."""

    @property
    def keys(self) -> dict[str, Any]:
        """The keys of its config.json that say its sizes."""
        return {**{key: value for key, value in SHAPE.items() if key not in self.without}, **self.shape}

    def as_written_by_4(self, raw: Mapping[str, Any]) -> dict[str, Any]:
        """Return a config.json of transformers 5 as transformers 4 would have written it."""
        raw = dict(raw)
        rope = raw.pop("rope_parameters", None)
        raw["torch_dtype"] = raw.pop("dtype", "float32")
        if not rope:
            return raw
        if "full_attention" in rope:
            raw["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
            rope = rope["full_attention"]
        theta, partial = ("rope_theta", "partial_rotary_factor")
        if self.model_type == "gpt_neox":
            theta, partial = "rotary_emb_base", "rotary_pct"  # transformers reads no others of it
        raw[theta] = rope["rope_theta"]
        kind = rope.get("rope_type", "default")
        kept = {
            key: value for key, value in rope.items() if key not in ("rope_theta", "rope_type", "partial_rotary_factor")
        }
        if "partial_rotary_factor" in rope:
            raw[partial] = rope["partial_rotary_factor"]
        raw["rope_scaling"] = None if kind == "default" else {"type": kind, **kept}
        return raw


def peer_config(transformers: Any, peer: Peer, **changes: Any) -> Any:
    """Return the configuration object of ``peer``."""
    return getattr(transformers, f"{peer.class_name}Config")(
        **{**peer.keys, **changes}, attn_implementation="eager", initializer_range=0.02
    )


FALCON = {"ffn_hidden_size": 44, "hidden_dropout": 0.0}
FALCON_LACKS = ("intermediate_size", "num_key_value_heads")
CAPS = {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}
EXPERTS = {"num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 20}
PEERS: Mapping[str, Peer] = MappingProxyType(
    {
        "gpt2": Peer(
            class_name="GPT2",
            model_type="gpt2",
            shape={
                "n_embd": 32,
                "n_layer": 3,
                "n_head": 4,
                "n_positions": 64,
                "n_inner": 44,
                "attn_pdrop": 0.0,
                "resid_pdrop": 0.0,
                "embd_pdrop": 0.0,
            },
            without=(
                "hidden_size",
                "intermediate_size",
                "num_hidden_layers",
                "num_attention_heads",
                "num_key_value_heads",
                "max_position_embeddings",
            ),
        ),
        "opt": Peer(
            class_name="OPT",
            model_type="opt",
            shape={"ffn_dim": 44, "dropout": 0.0, "word_embed_proj_dim": 32},
            without=("intermediate_size", "num_key_value_heads"),
        ),
        "opt 350m": Peer(
            class_name="OPT",
            model_type="opt",
            shape={"ffn_dim": 44, "dropout": 0.0, "word_embed_proj_dim": 12, "do_layer_norm_before": False},
            without=("intermediate_size", "num_key_value_heads"),
        ),
        "phi3": Peer(class_name="Phi3", model_type="phi3", shape={"original_max_position_embeddings": 64}),
        "phi3 longrope": Peer(
            class_name="Phi3",
            model_type="phi3",
            shape={
                "original_max_position_embeddings": 32,
                "rope_parameters": {
                    "rope_type": "longrope",
                    "rope_theta": 10000.0,
                    "short_factor": [1.0, 1.1, 1.3, 1.6],
                    "long_factor": [2.0, 3.0, 4.0, 5.0],
                },
            },
        ),
        "glm4": Peer(class_name="Glm4", model_type="glm4", shape={"head_dim": 8, "attention_bias": True}),
        "gpt_neox": Peer(
            class_name="GPTNeoX",
            model_type="gpt_neox",
            shape={"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}},
            without=("num_key_value_heads",),
        ),
        "gpt_neox in sequence": Peer(
            class_name="GPTNeoX",
            model_type="gpt_neox",
            shape={"use_parallel_residual": False},
            without=("num_key_value_heads",),
        ),
        "falcon": Peer(class_name="Falcon", model_type="falcon", shape=FALCON, without=FALCON_LACKS),
        "falcon new": Peer(
            class_name="Falcon",
            model_type="falcon",
            shape={**FALCON, "new_decoder_architecture": True, "num_kv_heads": 2},
            without=FALCON_LACKS,
        ),
        "falcon in sequence": Peer(
            class_name="Falcon",
            model_type="falcon",
            shape={**FALCON, "multi_query": False, "parallel_attn": False, "bias": True},
            without=FALCON_LACKS,
        ),
        "gemma": Peer(class_name="Gemma", model_type="gemma", shape={"head_dim": 16, "num_key_value_heads": 1}),
        "gemma2": Peer(
            class_name="Gemma2",
            model_type="gemma2",
            shape={"head_dim": 8, "sliding_window": 6, "query_pre_attn_scalar": 12, **CAPS},
        ),
        "gemma3_text": Peer(
            class_name="Gemma3Text",
            model_type="gemma3_text",
            shape={
                "head_dim": 8,
                "sliding_window": 6,
                "query_pre_attn_scalar": 12,
                "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
                "rope_parameters": {
                    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 100.0},
                    "sliding_attention": {"rope_type": "default", "rope_theta": 10.0},
                },
            },
        ),
        "qwen2 with some windows": Peer(
            class_name="Qwen2",
            model_type="qwen2",
            shape={"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 2},
        ),
        "olmo2": Peer(class_name="Olmo2", model_type="olmo2"),
        "phi": Peer(class_name="Phi", model_type="phi", shape={"resid_pdrop": 0.0, "partial_rotary_factor": 0.5}),
        "mixtral": Peer(
            class_name="Mixtral", model_type="mixtral", shape={"num_local_experts": 4, "sliding_window": 6}
        ),
        "qwen2_moe": Peer(
            class_name="Qwen2Moe",
            model_type="qwen2_moe",
            shape={**EXPERTS, "shared_expert_intermediate_size": 28, "mlp_only_layers": [1]},
        ),
        "qwen3_moe": Peer(
            class_name="Qwen3Moe", model_type="qwen3_moe", shape={**EXPERTS, "head_dim": 12, "norm_topk_prob": True}
        ),
    }
)
