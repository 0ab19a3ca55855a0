"""A Llama, a Gemma or a Mixtral as a file of llama.cpp."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np

_LAYER_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "block_sparse_moe.gate": "ffn_gate_inp",
}
_EXPERT_NAMES = {"w1": "ffn_gate_exps", "w3": "ffn_up_exps", "w2": "ffn_down_exps"}
"""llama.cpp stores the same matrix of all experts of a layer as one."""
_TOP_NAMES = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def write_gguf(
    path: Path, config: dict[str, Any], weights: dict[str, np.ndarray], variant: str, words: Sequence[str] = ()
) -> None:
    """Write a model; matrices are [out, in] and of type ``variant``, norms and routers float32.

    The tokenizer makes a token of each of ``words``, which are in the order of their ids; without words there is none.
    """
    is_gemma = config.get("model_type") == "gemma"
    writer, heads = gguf.GGUFWriter(path, "gemma" if is_gemma else "llama"), config["num_attention_heads"]
    kind, exact = gguf.GGMLQuantizationType[variant], gguf.GGMLQuantizationType.F32
    _add_sizes(writer, config)
    _add_tokenizer(writer, words)
    for name, value in _stack_experts(weights, config.get("num_local_experts", 0)).items():
        if is_gemma and name.endswith("norm.weight"):
            value = value + 1.0  # noqa: PLW2901  llama.cpp multiplies by the weight itself
        # llama.cpp rotates the halves of a Gemma's heads, and neighbours of all others.
        if not is_gemma and name.endswith(("q_proj.weight", "k_proj.weight")):
            rotated = heads if "q_proj" in name else config["num_key_value_heads"]
            value = pair_rotations(value, rotated)  # noqa: PLW2901
        is_cast = value.ndim > 1 and not name.endswith("block_sparse_moe.gate.weight")
        data = gguf.quants.quantize(value, kind) if is_cast else value
        writer.add_tensor(llama_name(name), data, raw_dtype=kind if is_cast else exact)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_sizes(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    heads = config["num_attention_heads"]
    width = config.get("head_dim") or config["hidden_size"] // heads
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(width)
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])
    if "num_local_experts" in config:
        writer.add_expert_count(config["num_local_experts"])
        writer.add_expert_used_count(config["num_experts_per_tok"])


def _stack_experts(weights: dict[str, np.ndarray], count: int) -> dict[str, np.ndarray]:
    """Return ``weights`` with the matrices of a layer's ``count`` experts as one, [experts, out, in], by its GGUF name.

    The shared name ends in what ``llama_name`` looks up.
    """
    stacked = {name: value for name, value in weights.items() if ".experts." not in name}
    for name in weights:
        block, _, rest = name.partition(".experts.0.")
        if rest:
            parts = [weights[f"{block}.experts.{number}.{rest}"] for number in range(count)]
            stacked[f"{block}.experts.{rest}"] = np.stack(parts)
    return stacked


def _add_tokenizer(writer: gguf.GGUFWriter, words: Sequence[str]) -> None:
    """Add RWKV's, which takes the longest token that fits and adds none, of words that all begin with a space."""
    if not words:
        writer.add_tokenizer_model("none")
        return
    special = [word.startswith("<") for word in words]
    writer.add_tokenizer_model("rwkv")
    writer.add_token_list([word if alone else f" {word}" for word, alone in zip(words, special, strict=True)])
    writer.add_token_types([gguf.TokenType.CONTROL if alone else gguf.TokenType.NORMAL for alone in special])
    writer.add_bos_token_id(words.index("<s>"))
    writer.add_eos_token_id(words.index("</s>"))


def llama_name(name: str) -> str:
    """Return the name in GGUF of a weight with a Hugging Face name."""
    name = name.removesuffix(".weight")
    if name in _TOP_NAMES:
        return f"{_TOP_NAMES[name]}.weight"
    layer, rest = name.removeprefix("model.layers.").split(".", 1)
    _, _, expert = rest.partition("block_sparse_moe.experts.")
    return f"blk.{layer}.{_EXPERT_NAMES[expert] if expert else _LAYER_NAMES[rest]}.weight"


def pair_rotations(weight: np.ndarray, heads: int) -> np.ndarray:
    """Return [out, in] with the halves of each head interleaved: llama.cpp rotates neighbours, Llama halves."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)
