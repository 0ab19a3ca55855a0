"""Tiny policies, and a server of one."""

from __future__ import annotations

import json

import pytest

from alignment.models.decoder.score_model import ScoreOptions
from alignment.models.folders.hub import random_causal_lm, random_score_model
from alignment.models.folders.saving import save_model
from alignment.models.tokenizer.tokenizer import load_tokenizer
from alignment.serve.guard import Access
from tests.unit.serve.served import TOKEN, policy_server

SHAPE = dict(
    model_type="llama",
    vocab_size=24,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=1,
    num_attention_heads=2,
    max_position_embeddings=64,
    initializer_range=0.4,
)


LONGROPE = {
    "model_type": "phi3",
    "original_max_position_embeddings": 24,
    "rope_scaling": {"type": "longrope", "short_factor": [1.0] * 4, "long_factor": [3.0] * 4},
}


@pytest.fixture(scope="package")
def folders(tmp_path_factory, repo_root):
    """Four policies, two of one shape; a reward model."""
    root = tmp_path_factory.mktemp("served")
    tokenizer = load_tokenizer(repo_root / "alignment" / "data" / "shipped" / "packing" / "tokenizer")
    for name, seed, changes in (
        ("one", 1, {}),
        ("two", 2, {}),
        ("wide", 3, {"intermediate_size": 32}),
        ("longrope", 5, LONGROPE),
    ):
        (root / "config.json").write_text(json.dumps({**SHAPE, **changes}))
        model = random_causal_lm(root / "config.json", seed=seed, tokenizer=tokenizer)
        save_model(root / name, model, tokenizer)
    reward = random_score_model(root / "config.json", ScoreOptions(), seed=4, tokenizer=tokenizer)
    save_model(root / "reward", reward, tokenizer)
    return root


@pytest.fixture(scope="package")
def tiny(folders):
    """(client, service) of a server that needs a token."""
    with policy_server(folders / "one", Access(token=TOKEN, only_local_names=False)) as (client, service, _):
        yield client, service
