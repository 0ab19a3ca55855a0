"""What ``rollout.py`` compares: models, sides, the processes they live in, and the long-tailed lengths."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

_NAMES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
_SIZES = {"tiny": (512, 64, 192, 4, 4), "25m": (32000, 256, 704, 8, 8), "110m": (32000, 768, 2048, 12, 12)}
_LLAMAS = {model: dict(zip(_NAMES, sizes, strict=True)) for model, sizes in _SIZES.items()}
_GEMMA = {"model_type": "gemma", "num_key_value_heads": 1, "tie_word_embeddings": True}
_MIXTRAL = {"model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 2, "sliding_window": None}
MODELS = {
    **{model: {"model_type": "llama", **sizes} for model, sizes in _LLAMAS.items()},
    "gemma-tiny": {**_LLAMAS["tiny"], **_GEMMA, "head_dim": 32},
    "gemma-25m": {**_LLAMAS["25m"], **_GEMMA, "intermediate_size": 2048, "head_dim": 64},
    "mixtral-tiny": {**_LLAMAS["tiny"], **_MIXTRAL, "num_key_value_heads": 2},
    "mixtral-25m": {**_LLAMAS["25m"], **_MIXTRAL, "num_key_value_heads": 4},
}
"""Sizes of each model in Hugging Face keys; q8_0 needs widths that 32 divides. Each of the 8 experts of
``mixtral-25m`` is as large as a feed-forward block of ``25m``, and a token is given to 2.
"""

NUM_PROMPTS, MEAN_TOKENS, MAX_TOKENS = 64, 128, 1024
"""The long-tailed workload: prompts, and the mean and the cut of the lengths of their answers."""
SIGMA = 1.0
"""Standard deviation of the logarithm of a length."""

FAMILIES = ("llama", "gemma", "mixtral")
"""Those of ``MODELS``."""


class Process(NamedTuple):
    """A script that serves some sides, and what its interpreter must have."""

    script: str
    modules: tuple[str, ...]
    packages: tuple[str, ...] = ()
    """What ``rollout_environments.py`` installs for it; empty: the interpreter of this project has all."""
    families: tuple[str, ...] = ("llama",)
    """The families that the script can write or read the weights of."""


PROCESSES = {
    "alignment": Process("rollout_ours.py", ("paddle",), families=FAMILIES),
    "torch": Process("rollout_torch.py", ("torch", "transformers"), ("torch", "transformers", "numpy"), FAMILIES),
    "ctranslate2": Process("rollout_ctranslate2.py", ("ctranslate2",), ("ctranslate2", "numpy")),
    "llama": Process("rollout_llama.py", ("llama_cpp", "gguf"), ("llama_cpp_python", "gguf", "numpy"), FAMILIES),
    "paddlenlp": Process(
        "rollout_paddlenlp.py",
        ("paddle", "paddlenlp"),
        ("paddlepaddle==3.3.1", "paddlenlp==3.0.0b4", "aistudio-sdk<0.3", "datasets>=2.19,<4", "pyarrow<21"),
    ),
}


class Side(NamedTuple):
    """One way to generate."""

    process: str
    """A key of ``PROCESSES``."""
    variant: str
    """How the process calls it."""
    ours: str
    """The side of this package that it is measured against: the fused engine with weights of about the same type."""
    exact: bool = False
    """True where all numbers are float32, so that the tokens should be those of every other exact side."""


SIDES = {
    "fused-f32": Side("alignment", "float32", "fused-f32", exact=True),
    "fused-bf16": Side("alignment", "bfloat16", "fused-bf16"),
    "fused-int8": Side("alignment", "int8", "fused-int8"),
    "eager": Side("alignment", "eager", "fused-f32", exact=True),
    "torch-f32": Side("torch", "float32", "fused-f32", exact=True),
    "torch-bf16": Side("torch", "bfloat16", "fused-bf16"),
    "ctranslate2-f32": Side("ctranslate2", "float32", "fused-f32", exact=True),
    "ctranslate2-int8": Side("ctranslate2", "int8", "fused-int8"),
    "llama-f32": Side("llama", "F32", "fused-f32"),
    "llama-bf16": Side("llama", "BF16", "fused-bf16"),
    "llama-q8_0": Side("llama", "Q8_0", "fused-int8"),
    "llama-exact": Side("llama", "F32 exact", "fused-f32", exact=True),
    "paddlenlp": Side("paddlenlp", "float32", "fused-f32", exact=True),
}
DEFAULT_SIDES = [name for name in SIDES if name != "llama-exact"]
"""``llama-f32`` has attention in 16 bits, the default of llama.cpp; ``llama-exact`` shows that it has our weights."""


def longtail_lengths() -> list[int]:
    """Return ``NUM_PROMPTS`` answer lengths: the quantiles of a log-normal distribution, shuffled."""
    places = np.random.default_rng(0).permutation(NUM_PROMPTS)
    middle = math.log(MEAN_TOKENS) - SIGMA**2 / 2
    drawn = [math.exp(middle + SIGMA * NormalDist().inv_cdf((place + 0.5) / NUM_PROMPTS)) for place in places]
    return [min(MAX_TOKENS, max(1, round(length))) for length in drawn]
