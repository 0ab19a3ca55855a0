"""Which models need masters, and when the engine lets go of its weights."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from alignment.loops.rollout_engine import RolloutEngine
from alignment.models.config import DecoderConfig
from alignment.models.decoder.score_model import ScoreModel, ScoreOptions
from alignment.parallel.topology import Topology
from alignment.runs.placed import shard_model

SHAPE = dict(model_type="llama", vocab_size=16, hidden_size=8, intermediate_size=16, num_hidden_layers=1)
SHAPE |= dict(num_attention_heads=2, max_position_embeddings=32)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_bfloat16_model_with_a_float32_head_has_masters_and_a_float32_one_none(dtype):
    model = ScoreModel(DecoderConfig.from_dict(SHAPE), ScoreOptions(score_type="reward"), dtype=dtype)
    shards = shard_model(model, Topology(device="cpu"))
    if dtype == "float32":
        assert shards is None
    else:
        names = {name for name, _ in model.named_parameters()}
        assert shards.masters == names - {"score.weight"} and "score.weight" in names


class _Engine:
    """Notes what it is asked for."""

    def __init__(self):
        self.calls = []

    def load_weights(self, weights, version):
        self.calls.append(("load", weights, version))

    def release(self):
        self.calls.append("release")


class _Away:
    """Weights that live in host memory."""

    def enter(self):
        return None

    def leave(self):
        return None


@pytest.mark.parametrize("is_away", [False, True])
def test_weights_are_loaded_when_they_changed_and_let_go_when_the_policy_leaves(is_away):
    policy = SimpleNamespace(offloaded_model=_Away() if is_away else None, kept_weights=lambda: "weights")
    engine = _Engine()
    rollouts = RolloutEngine(engine=engine, policy=policy)
    for version in (0, 0, 1):
        with rollouts.ready(version):
            assert engine.calls[-1][0] == "load"
    loads = [("load", "weights", version) for version in ((0, 0, 1) if is_away else (0, 1))]
    assert [call for call in engine.calls if call != "release"] == loads
    assert engine.calls.count("release") == (3 if is_away else 0)
