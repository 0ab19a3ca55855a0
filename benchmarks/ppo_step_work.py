"""What both sides of ``ppo_step.py`` are asked to do: sizes, numbers, tokens and weights. Needs no framework."""

from __future__ import annotations

import json
import zlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
from safetensors.numpy import save_file

WORK_FILE = "work.json"
CHECKPOINTS = ("policy", "critic", "reward")
"""Folders of weights; the reference starts as the policy, as in every run."""
PHASES = ("rollout", "scoring", "update")
MODELS: dict[str, dict[str, int]] = {
    "tiny": {
        "vocab_size": 1000,
        "hidden_size": 128,
        "intermediate_size": 344,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
    },
    "8m": {
        "vocab_size": 4000,
        "hidden_size": 256,
        "intermediate_size": 688,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
    },
    "25m": {
        "vocab_size": 8000,
        "hidden_size": 512,
        "intermediate_size": 1376,
        "num_hidden_layers": 6,
        "num_attention_heads": 8,
    },
    "110m": {
        "vocab_size": 32000,
        "hidden_size": 768,
        "intermediate_size": 2048,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
    },
}
_STD = 0.02
SIGMA = 0.9
"""Standard deviation of the logarithm of a ragged length."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """One PPO step; written into the folder that holds the weights."""

    model: str
    """A key of ``MODELS``."""
    threads: int
    num_prompts: int = 8
    answers: int = 1
    """Responses to each prompt."""
    prompt_length: int = 64
    """Tokens of each prompt; the median if ragged."""
    response_length: int = 64
    """Tokens of each response, likewise; there is no stop token."""
    is_ragged: bool = False
    """Whether lengths are log-normal, cut at the longest ones, the same in every step."""
    longest_prompt: int = 1024
    longest_response: int = 512
    rows_per_batch: int = 8
    """Rows of one forward (and backward) pass in scoring and update."""
    overrides: dict[str, Any] = field(default_factory=dict)
    """Arguments of this package's run that a table of savings changes."""
    peer_batches: int = 0
    """Micro-batches of each phase that torch measures on ragged rows, see ``ppo_step_part``; 0: all."""
    seed: int = 20261120
    learning_rate: float = 1e-6
    max_grad_norm: float = 1.0
    kl_coeff: float = 0.02
    clip_ratio: float = 0.2
    clip_score: float = 50.0
    clip_value: float = 5.0
    gamma: float = 1.0
    gae_lambda: float = 0.95

    @classmethod
    def read(cls, folder: Path) -> Work:
        """Read what ``write`` wrote."""
        return cls(**json.loads((folder / WORK_FILE).read_text(encoding="utf-8")))

    def write(self, folder: Path) -> None:
        """Write this into ``folder``."""
        (folder / WORK_FILE).write_text(json.dumps(asdict(self)), encoding="utf-8")

    @property
    def num_rows(self) -> int:
        """N, the responses of a step."""
        return self.num_prompts * self.answers

    @property
    def prompt_lengths(self) -> np.ndarray:
        """Tokens [num_prompts] of each prompt."""
        return self._lengths(self.num_prompts, self.prompt_length, self.longest_prompt)

    @property
    def response_lengths(self) -> np.ndarray:
        """Tokens [N] of each response; those to one prompt are neighbours."""
        return self._lengths(self.num_rows, self.response_length, self.longest_response)

    def prompts(self, step: int) -> list[np.ndarray]:
        """Return the prompts of step number ``step``."""
        return self._tokens(step, self.prompt_lengths)

    def fixed_responses(self) -> list[np.ndarray]:
        """Return N responses for the comparison of results."""
        return self._tokens(1 << 20, self.response_lengths)

    def _lengths(self, count: int, middle: int, longest: int) -> np.ndarray:
        if not self.is_ragged:
            return np.full(count, middle)
        return log_normal_lengths(count, middle, longest, seed=self.seed)

    def _tokens(self, stream: int, lengths: np.ndarray) -> list[np.ndarray]:
        vocab = MODELS[self.model]["vocab_size"]
        drawn = np.random.default_rng([self.seed, stream]).integers(3, vocab, lengths.sum())
        return np.split(drawn, np.cumsum(lengths)[:-1])


def log_normal_lengths(count: int, middle: int, longest: int, *, seed: int) -> np.ndarray:
    """Return the ``count`` quantiles of a log-normal length with median ``middle``, cut at ``longest``, shuffled."""
    quantiles = [NormalDist().inv_cdf((i + 0.5) / count) for i in range(count)]
    lengths = np.clip(np.round(middle * np.exp(SIGMA * np.array(quantiles))), 1, longest).astype(np.int64)
    return np.random.default_rng([seed, count]).permutation(lengths)


def write_weights(model: str, folder: Path, *, seed: int) -> None:
    """Write ``CHECKPOINTS`` for ``model`` under ``folder`` in the Hugging Face layout, each drawn from its own seed."""
    for number, name in enumerate(CHECKPOINTS):
        is_policy = name == "policy"
        target = folder / name
        target.mkdir(parents=True)
        config = hugging_face_config(model, "LlamaForCausalLM" if is_policy else "LlamaForSequenceClassification")
        (target / "config.json").write_text(json.dumps(config), encoding="utf-8")
        shapes = decoder_shapes(config)
        head = ("lm_head.weight", config["vocab_size"]) if is_policy else ("score.weight", 1)
        shapes[head[0]] = (head[1], config["hidden_size"])
        weights = {key: _draw(shape, key, seed + number) for key, shape in shapes.items()}
        save_file(weights, target / "model.safetensors", metadata={"format": "pt"})


def hugging_face_config(model: str, architecture: str) -> dict[str, Any]:
    """Return config.json of a Llama with the sizes of ``model``."""
    sizes = MODELS[model]
    config = {
        "architectures": [architecture],
        "model_type": "llama",
        "num_key_value_heads": sizes["num_attention_heads"],
        "max_position_embeddings": 2048,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "initializer_range": _STD,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "torch_dtype": "float32",
    }
    return {**config, **sizes} | ({} if architecture.endswith("CausalLM") else {"id2label": {"0": "LABEL_0"}})


def decoder_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter below the head, matrices as [out, in]."""
    width, inner = config["hidden_size"], config["intermediate_size"]
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config["vocab_size"], width),
        "model.norm.weight": (width,),
    }
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        shapes |= {f"{prefix}self_attn.{name}_proj.weight": (width, width) for name in "qkvo"}
        shapes |= {f"{prefix}mlp.{name}_proj.weight": (inner, width) for name in ("gate", "up")}
        shapes[f"{prefix}mlp.down_proj.weight"] = (width, inner)
        shapes |= {f"{prefix}{name}_layernorm.weight": (width,) for name in ("input", "post_attention")}
    return shapes


def _draw(shape: tuple[int, ...], name: str, seed: int) -> np.ndarray:
    if len(shape) == 1:
        return np.ones(shape, np.float32)
    generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
    return generator.standard_normal(shape, np.float32) * np.float32(_STD)
