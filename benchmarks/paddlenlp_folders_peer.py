"""PaddleNLP's side of ``paddlenlp_folders.py``, in an environment that has it: ``write FOLDER`` or ``open FOLDER``."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import paddlenlp
from paddlenlp.transformers import AutoModelForCausalLM, AutoTokenizer
from paddlenlp_golden import SAFE, Case, build_model, compute, save
from paddlenlp_tokenizers import TEXTS, write_llama, write_qwen2

SHAPE = {
    "vocab_size": 480,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "max_position_embeddings": 128,
}
TOKENIZERS = {"llama": write_llama, "mistral": write_llama, "qwen2": write_qwen2}
FORMATS: dict[str, dict[str, Any]] = {
    ".pdparams": {},
    ".pdparams, sharded": {"saving": {"max_shard_size": "200KB"}},
    ".pdparams, 2 parts": {"degree": 2},
    "safetensors": {"saving": SAFE},
}


def write(work: Path) -> None:
    """Write a folder for each family and format, with the logits and ids of PaddleNLP."""
    rows = np.random.default_rng(2).integers(1, 370, (4, 64))
    for family, write_tokenizer in TOKENIZERS.items():
        for number, (name, options) in enumerate(FORMATS.items()):
            folder = work / "written" / f"{family}-{number}"
            case = Case(family, SHAPE, spread=0.1, **options)
            model = build_model(case)
            outputs = compute(model, rows)
            with tempfile.TemporaryDirectory() as place:
                write_tokenizer(Path(place), folder)
            save(model, case, folder)
            np.savez(folder / "outputs.npz", ids=rows, outputs=outputs)
            facts = {"family": family, "format": name, "ids": tokenize(folder)}
            (folder / "facts.json").write_text(json.dumps(facts), encoding="utf-8")
    versions = {"paddlenlp": paddlenlp.__version__, "paddle": paddle.__version__}
    (work / "versions.json").write_text(json.dumps(versions), encoding="utf-8")


def open_all(work: Path) -> None:
    """Open every folder that was exported; write down the logits and ids."""
    for folder in sorted((work / "exported").iterdir()):
        rows = np.load(work / "rows" / f"{folder.name}.npy")
        model = AutoModelForCausalLM.from_pretrained(str(folder), dtype="float32")
        model.eval()
        np.save(work / "opened" / f"{folder.name}.npy", compute(model, rows))
        (work / "opened" / f"{folder.name}.json").write_text(json.dumps(tokenize(folder)), encoding="utf-8")


def tokenize(folder: Path) -> list[list[int]]:
    """Return the ids of every text."""
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    return [tokenizer(text)["input_ids"] for text in TEXTS]


if __name__ == "__main__":
    {"write": write, "open": open_all}[sys.argv[1]](Path(sys.argv[2]))
