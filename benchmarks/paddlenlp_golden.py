"""Write ``tests/golden/paddlenlp``: tiny model folders as PaddleNLP writes them, with the logits it computes.

Run it where the extra ``peers`` is installed: ``python benchmarks/paddlenlp_golden.py``. PaddleNLP's own code makes the
files; the numbers are drawn from fixed seeds.
"""

from __future__ import annotations

import argparse
import functools
import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import paddle
import paddlenlp
from paddlenlp.transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2ForSequenceClassification,
)

TARGET = Path(__file__).parents[1] / "tests" / "golden" / "paddlenlp"
SHAPE = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 12,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "use_cache": False,
}
FAMILIES = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "mistral": (MistralConfig, MistralForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen2-score": (Qwen2Config, Qwen2ForSequenceClassification),
}
SAFE = {"safe_serialization": True}
FUSED = ("fuse_attention_qkv", "fuse_attention_ffn")


class Case(NamedTuple):
    """One folder."""

    family: str
    changes: dict[str, Any] = {}
    """To the configuration."""
    saving: dict[str, Any] = {}
    """Arguments of ``save_pretrained``."""
    fused: bool = False
    degree: int = 1
    """Tensor-parallel processes whose parts are saved."""
    protocol: int = 4
    dtype: str = "float32"
    spread: float = 0.3
    """Standard deviation of the weights."""


CASES = {
    "llama": Case("llama", {"num_hidden_layers": 2}),
    "llama-protocol-2": Case("llama", protocol=2),
    "llama-sharded": Case("llama", saving={"max_shard_size": "4KB"}),
    "llama-parts": Case("llama", degree=2),
    "llama-parts-4": Case("llama", {"vocab_size": 30}, degree=4),
    "llama-fused": Case("llama", fused=True),
    "llama-fused-parts": Case("llama", fused=True, degree=2),
    "llama-tied": Case("llama", {"tie_word_embeddings": True}),
    "llama-tied-parts": Case("llama", {"tie_word_embeddings": True}, degree=2),
    "llama-bfloat16": Case("llama", saving=SAFE, dtype="bfloat16"),
    "llama-float16": Case("llama", dtype="float16"),
    "llama-safetensors": Case("llama", saving=SAFE),
    "llama-linear": Case("llama", {"rope_scaling_type": "linear", "rope_scaling_factor": 4.0}),
    "llama-ntk": Case("llama", {"rope_scaling_type": "ntk", "rope_scaling_factor": 4.0}),
    "llama-dynamic": Case(
        "llama",
        {"rope_scaling_type": "dynamic_ntk", "rope_scaling_factor": 2.0, "max_position_embeddings": 24},
    ),
    "mistral": Case("mistral"),
    "mistral-tied": Case("mistral", {"tie_word_embeddings": True}),
    "mistral-safetensors-sharded": Case("mistral", saving={**SAFE, "max_shard_size": "4KB"}),
    "qwen2": Case("qwen2"),
    "qwen2-safetensors": Case("qwen2", saving=SAFE),
    "qwen2-fused-parts": Case("qwen2", fused=True, degree=2),
    "qwen2-tied": Case("qwen2", {"tie_word_embeddings": True}, SAFE),
    "qwen2-score": Case("qwen2-score", {"num_labels": 1}),
}


def main() -> None:
    """Write every folder anew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", type=Path, default=TARGET)
    options = parser.parse_args()
    shutil.rmtree(options.target, ignore_errors=True)
    # Not the padding token: PaddleNLP's Mistral embeds it as zeros.
    ids = np.random.default_rng(1).integers(1, 30, (1, 20))
    for name, case in CASES.items():
        model, folder = build_model(case), options.target / name
        outputs = compute(model, ids)
        save(model.to(dtype=case.dtype), case, folder)
        np.savez(folder / "outputs.npz", ids=ids.astype(np.int16), outputs=outputs)
    facts = {"paddlenlp": paddlenlp.__version__, "paddle": paddle.__version__}
    (options.target / "versions.json").write_text(json.dumps(facts) + "\n", encoding="utf-8")


def build_model(case: Case) -> paddle.nn.Layer:
    """Return the model in float32, with weights drawn from a fixed seed and rounded to the dtype of the case."""
    make_config, make_model = FAMILIES[case.family]
    config = make_config(**{**SHAPE, **case.changes})
    for name in FUSED:  # its constructor forgets them
        setattr(config, name, case.fused)
    model = make_model(config)
    generator = np.random.default_rng(0)
    for name, parameter in model.named_parameters():
        values = generator.normal(1.0 if "norm" in name else 0.0, case.spread, parameter.shape)
        parameter.set_value(paddle.to_tensor(values.astype("float32")).astype(case.dtype).astype("float32"))
    model.eval()
    return model


def compute(model: paddle.nn.Layer, ids: np.ndarray) -> np.ndarray:
    """Return logits [rows, tokens, vocabulary], or the scores [rows, 1]."""
    with paddle.no_grad():
        outputs = model(paddle.to_tensor(ids))
    return (outputs[0] if isinstance(outputs, (list, tuple)) else outputs).numpy()


def save(model: paddle.nn.Layer, case: Case, folder: Path) -> None:
    """Write the folder of one model."""
    write = functools.partial(paddle.save, protocol=case.protocol)
    model.save_pretrained(str(folder), save_function=write, **case.saving)
    if case.degree > 1:
        (folder / "model_state.pdparams").unlink()
        for rank in range(case.degree):
            model.config.tensor_parallel_degree, model.config.tensor_parallel_rank = case.degree, rank
            state = {name: value.clone() for name, value in model.state_dict().items()}
            part = type(model).convert_tensor_parallel(None, model.config, state_dict=state)
            paddle.save(part, str(folder / f"model_state.tp{rank:0>2d}.pdparams"))
        model.config.tensor_parallel_degree = 1


if __name__ == "__main__":
    main()
