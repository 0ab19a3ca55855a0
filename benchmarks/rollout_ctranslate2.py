"""The rollouts of ``rollout.py`` by ctranslate2 in float32 and int8; the weights are handed over in its own format."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ctranslate2
import numpy as np
from ctranslate2.specs import common_spec, transformer_spec
from rollout_worker import Generate, Job, read_linear, serve


def write_model(folder: Path, config: dict[str, Any], weights: dict[str, np.ndarray], variant: str) -> None:
    """Write a Llama, matrices as [out, in], whose words are the numbers of the tokens."""
    heads = config["num_attention_heads"]
    spec = transformer_spec.TransformerDecoderModelSpec.from_config(
        config["num_hidden_layers"],
        heads,
        activation=common_spec.Activation.SWISH,
        pre_norm=True,
        ffn_glu=True,
        rms_norm=True,
        rotary_dim=config["hidden_size"] // heads,
        rotary_interleave=False,
        rotary_base=config["rope_theta"],
        num_heads_kv=config["num_key_value_heads"],
    )
    decoder = spec.decoder
    decoder.scale_embeddings = False
    decoder.embeddings.weight = weights["model.embed_tokens.weight"]
    decoder.layer_norm.gamma = weights["model.norm.weight"]
    decoder.projection.weight = weights["lm_head.weight"]
    for number, layer in enumerate(decoder.layer):
        _fill_layer(layer, lambda name, prefix=f"model.layers.{number}.": weights[f"{prefix}{name}.weight"])
    spec.register_vocabulary([str(token) for token in range(config["vocab_size"])])
    spec.config.unk_token, spec.config.bos_token, spec.config.eos_token = "0", "1", "2"
    spec.config.layer_norm_epsilon = config["rms_norm_eps"]
    spec.validate()
    spec.optimize(quantization=variant)
    folder.mkdir()
    spec.save(str(folder))


def _fill_layer(layer: Any, get: Callable[[str], np.ndarray]) -> None:
    attention, feed = layer.self_attention, layer.ffn
    attention.layer_norm.gamma = get("input_layernorm")
    attention.linear[0].weight = np.concatenate([get(f"self_attn.{name}_proj") for name in "qkv"])
    attention.linear[1].weight = get("self_attn.o_proj")
    feed.layer_norm.gamma = get("post_attention_layernorm")
    feed.linear_0.weight = get("mlp.gate_proj")
    feed.linear_0_noact.weight = get("mlp.up_proj")
    feed.linear_1.weight = get("mlp.down_proj")


def prepare(job: Job) -> Callable[[str], Generate]:
    """Load the weights."""
    config, stored = job.read_work()
    weights = read_linear(stored)

    def build(variant: str) -> Generate:
        folder = Path(job.folder) / f"ctranslate2-{variant}-{job.threads}"
        write_model(folder, config, weights, variant)
        generator = ctranslate2.Generator(
            str(folder), device="cpu", compute_type=variant, inter_threads=1, intra_threads=job.threads
        )

        def generate(prompts: np.ndarray, limits: Sequence[int]) -> list[list[int]]:
            wanted = max(limits)
            answers = generator.generate_batch(
                [[str(token) for token in row] for row in prompts.tolist()],
                max_length=wanted,
                min_length=wanted,
                sampling_topk=1,
                include_prompt_in_result=False,
            )
            return [answer.sequences_ids[0] for answer in answers]

        return generate

    return build


if __name__ == "__main__":
    serve({"ctranslate2": ctranslate2.__version__}, prepare)
