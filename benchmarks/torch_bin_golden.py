"""Write ``tests/golden/torch_bin``: small weights as ``torch.save`` writes them and their numbers, and tiny models.

Run it where the extra ``interop`` is installed: ``python benchmarks/torch_bin_golden.py``.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

TARGET = Path(__file__).parents[1] / "tests" / "golden" / "torch_bin"


def main() -> None:
    """Write both kinds of file, and what they hold."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(5, 7, generator=generator)
    tensors = {
        "matrix": matrix,
        "transposed": matrix.T,
        "window": matrix[1:4, 2:5],
        "steps": matrix[::2, ::3],
        "expanded": matrix[:1].expand(3, 7),
        "vector": torch.randn(4, generator=generator),
        "parameter": torch.nn.Parameter(torch.randn(3, generator=generator)),
        "double": torch.randn(2, 2, generator=generator, dtype=torch.float64),
        "half": torch.randn(3, generator=generator).half(),
        "bfloat16": torch.randn(2, 3, generator=generator).bfloat16(),
        "whole_numbers": torch.arange(5),
        "bytes": torch.arange(3, dtype=torch.uint8),
        "truths": torch.tensor([True, False]),
        "scalar": torch.tensor(2.5),
        "empty": torch.empty(0, 3),
    }
    state = OrderedDict(tensors)
    state._metadata = OrderedDict({"": {"version": 1}})
    TARGET.mkdir(parents=True, exist_ok=True)
    torch.save(state, TARGET / "zip.bin")
    torch.save(state, TARGET / "plain.bin", _use_new_zipfile_serialization=False)
    np.savez(TARGET / "expected.npz", **{name: tensor.detach().float().numpy() for name, tensor in tensors.items()})
    write_models(TARGET / "model", TARGET / "model-sharded")


def write_models(whole: Path, sharded: Path) -> None:
    """Write one model in a file and in shards, with the logits of transformers."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.3,
    )
    model = LlamaForCausalLM(config).eval()
    ids = torch.randint(0, 32, (1, 20))
    with torch.no_grad():
        logits = model(ids).logits.numpy()
    state = model.state_dict()
    names = list(state)
    shards = {"pytorch_model-00001-of-00002.bin": names[:9], "pytorch_model-00002-of-00002.bin": names[9:]}
    index = {"metadata": {}, "weight_map": {name: file for file, held in shards.items() for name in held}}
    for folder in (whole, sharded):
        config.save_pretrained(folder)
        np.savez(folder / "outputs.npz", ids=ids.numpy().astype(np.int16), outputs=logits)
    torch.save(state, whole / "pytorch_model.bin")
    for file, held in shards.items():
        torch.save({name: state[name].clone() for name in held}, sharded / file)
    (sharded / "pytorch_model.bin.index.json").write_text(json.dumps(index) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
