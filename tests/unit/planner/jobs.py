"""Jobs and shapes that the tests of the planner share."""

from __future__ import annotations

from typing import Any

from alignment.architecture.decoder_config import DecoderConfig
from alignment.planner.job import Job
from tests.tiny_models import in_own_names

SHAPE = {
    "model_type": "llama",
    "vocab_size": 1003,
    "hidden_size": 64,
    "intermediate_size": 172,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 4096,
}


def make_config(**changes: Any) -> DecoderConfig:
    """Return a small model's configuration."""
    return DecoderConfig.from_dict(in_own_names({**SHAPE, **changes}), place="test")


def make_job(**changes: Any) -> Job:
    """Return a job of a small policy, critic and reward model."""
    config = make_config()
    given = {
        "policy": config,
        "critic": config,
        "reward": config,
        "half": False,
        "length": 96,
        "response": 32,
        "rows_per_batch": 2,
        "logprob_rows": 2,
        "value_rows": 2,
        "reward_rows": 2,
        "micro_batches": 2,
        "iteration_rows": 8,
    }
    return Job(**{**given, **changes})
