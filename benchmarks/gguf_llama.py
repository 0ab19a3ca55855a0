"""A Llama as a file of llama.cpp."""

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
}
_TOP_NAMES = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def write_gguf(
    path: Path, config: dict[str, Any], weights: dict[str, np.ndarray], variant: str, words: Sequence[str] = ()
) -> None:
    """Write a Llama; matrices are [out, in] and of type ``variant``, norms float32.

    The tokenizer makes a token of each of ``words``, which are in the order of their ids; without words there is none.
    """
    writer, heads = gguf.GGUFWriter(path, "llama"), config["num_attention_heads"]
    kind = gguf.GGMLQuantizationType[variant]
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(config["hidden_size"] // heads)
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])
    _add_tokenizer(writer, words)
    for name, value in weights.items():
        matrix = value.ndim == 2
        value = pair_rotations(value, heads) if name.endswith(("q_proj.weight", "k_proj.weight")) else value
        data = gguf.quants.quantize(value, kind) if matrix else value
        writer.add_tensor(llama_name(name), data, raw_dtype=kind if matrix else gguf.GGMLQuantizationType.F32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


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
    return f"blk.{layer}.{_LAYER_NAMES[rest]}.weight"


def pair_rotations(weight: np.ndarray, heads: int) -> np.ndarray:
    """Return [out, in] with the halves of each head interleaved: llama.cpp rotates neighbours, Llama halves."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)
