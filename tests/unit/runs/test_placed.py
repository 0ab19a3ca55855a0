"""Which models need masters, and when the engine lets go of its weights."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from alignment.loops import rollout_engine
from alignment.loops.rollout_engine import RolloutEngine
from alignment.parallel.topology import Topology
from alignment.runs import placed
from alignment.runs.placed import place_frozen, shard_model
from tests.tiny_models import tiny_score


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_bfloat16_model_with_a_float32_head_has_masters_and_a_float32_one_none(dtype):
    model = tiny_score(dtype=dtype)
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
        self.calls.append(("load", list(weights), version))

    def release(self):
        self.calls.append("release")


class _Away:
    """Weights that live in host memory."""

    def enter(self):
        return None

    def leave(self):
        return None


@pytest.mark.parametrize("is_away", [False, True])
def test_weights_are_loaded_when_they_changed_and_let_go_when_the_policy_leaves(is_away, monkeypatch):
    model = SimpleNamespace(model=SimpleNamespace(dtype="float32"), parts={})
    policy = SimpleNamespace(
        offloaded_model=_Away() if is_away else None,
        kept_weights=lambda: ["weights"],
        runner=SimpleNamespace(model=model),
    )
    monkeypatch.setattr(rollout_engine, "unpacked_weights", lambda given, dtype: [(given is model, dtype)])
    engine = _Engine()
    rollouts = RolloutEngine(engine=engine, policy=policy)
    for version in (0, 0, 1):
        with rollouts.ready(version):
            assert engine.calls[-1][0] == "load"
    weights = ["weights", (True, "float32")]
    loads = [("load", weights, version) for version in ((0, 0, 1) if is_away else (0, 1))]
    assert [call for call in engine.calls if call != "release"] == loads
    assert engine.calls.count("release") == (3 if is_away else 0)


@pytest.mark.parametrize(("stage", "size", "is_cut"), [(3, 2, True), (3, 1, False), (2, 2, False)])
@pytest.mark.parametrize("offload", [False, True])
def test_a_frozen_model_is_cut_over_its_sharding_group_in_stage_3_alone(stage, size, is_cut, offload, monkeypatch):
    """What is offloaded are the rows that this process keeps, where the model is cut, and the whole weights else."""
    norm, cut = object(), []

    def slice_weights(model, group, *, part_of, used_after):
        cut.append((model, group, part_of("w"), used_after))
        return SimpleNamespace(named_tensors="the rows", parts={})

    model = SimpleNamespace(
        named_parameters="the weights", parts={"w": "its part"}, kind="causal", lm_head=None,
        placement=SimpleNamespace(is_last=True), model=SimpleNamespace(last_layer=norm),
        config=SimpleNamespace(head_bias=False),
    )  # fmt: skip
    group = SimpleNamespace(size=size)
    topology = SimpleNamespace(layout=SimpleNamespace(sharding_stage=stage), sharding=group)
    monkeypatch.setattr(placed, "SlicedWeights", slice_weights)
    monkeypatch.setattr(placed, "build_runner", lambda *given: SimpleNamespace(model=given))
    monkeypatch.setattr(placed, "Offloaded", lambda name, tensors: (name, tensors))
    runner = place_frozen("reference", model, topology, offload=offload)
    assert runner.model == (model, topology)
    assert cut == ([(model, group, "its part", {"model.embed_tokens.weight": norm})] if is_cut else [])
    kept = getattr(runner, "_offloaded", None)
    assert kept == (("reference model", "the rows" if is_cut else "the weights") if offload else None)


@pytest.mark.parametrize(("pipeline", "tied", "kind", "is_tied"), [
    (2, True, "causal", True), (1, True, "causal", False), (2, False, "causal", False), (2, True, "reward", False),
])  # fmt: skip
def test_the_embedding_is_shared_between_stages_of_a_tied_causal_model_alone(
    pipeline, tied, kind, is_tied, monkeypatch
):
    made = {}
    monkeypatch.setattr(placed, "ParameterShards", lambda *given, **named: made.update(named, given=given))
    model = SimpleNamespace(
        kind=kind, parameters=list, parts={"w": "its part"}, config=SimpleNamespace(tie_word_embeddings=tied),
        placement=SimpleNamespace(is_last=False),
    )  # fmt: skip
    layout = SimpleNamespace(pipeline=pipeline, sharding_stage=2, tensor=1, sequence_parallel=False)
    topology = SimpleNamespace(world_size=2, layout=layout)
    shard_model(model, topology)
    assert made["given"] == (model, topology) and made["stage"] == 2 and made["part_of"]("w") == "its part"
    assert set(made["tied"]) == ({"model.embed_tokens.weight"} if is_tied else set())
    assert made["used_after"] == {}
