"""What a process holds: the parameters of real models in a layout, and the units and messages of sharding."""

from __future__ import annotations

import pytest

from alignment.architecture.layout import Layout
from alignment.architecture.parts import even_cut
from alignment.models.decoder.decoder import CausalLM
from alignment.models.decoder.placement import Placement
from alignment.models.decoder.score_model import ScoreModel, ScoreOptions
from alignment.parallel.comms.group import Group
from alignment.parallel.sharding import message_cuts
from alignment.parallel.sharding.gradients import _make_sections
from alignment.parallel.sharding.units import find_units
from alignment.planner.counts.shapes import Held, count_layers, model_elements, stage_layers
from tests.unit.planner.jobs import make_config

CONFIGS = {
    "llama": make_config(),
    "tied": make_config(tie_word_embeddings=True),
    "qwen2": make_config(model_type="qwen2"),
    "qwen3": make_config(model_type="qwen3", head_dim=24),
    "one key head": make_config(num_key_value_heads=1),
}
LAYOUTS = {
    "one": Layout(),
    "TP4": Layout(tensor=4),
    "PP3": Layout(pipeline=3),
    "PP2 interleaved": Layout(pipeline=2, virtual_stages=2),
    "TP2xPP2xSh2": Layout(tensor=2, pipeline=2, sharding=2, sharding_stage=1),
}


def build(config, kind, layout, stage):
    """Return the real model of the first process of ``stage``."""
    placement = Placement(
        tensor=Group("tensor", range(layout.tensor)),
        stage=stage,
        num_stages=layout.pipeline,
        chunks_per_stage=layout.virtual_stages,
    )
    if kind == "causal":
        return CausalLM(config, placement=placement)
    return ScoreModel(config, ScoreOptions(), placement=placement)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["causal", "score"])
@pytest.mark.parametrize("family", CONFIGS)
def test_elements_are_those_of_the_model_that_is_built(family, kind, layout):
    config, layout = CONFIGS[family], LAYOUTS[layout]
    for stage in range(layout.pipeline):
        model = build(config, kind, layout, stage)
        held = Held.of(config, kind, layout, stage)
        assert held.elements == sum(int(p.size) for p in model.parameters())
        assert held.largest == max(int(p.size) for p in model.parameters())
        assert sum(stage_layers(config, layout, stage)) == len(model.model.layers)


@pytest.mark.parametrize("family", CONFIGS)
def test_model_elements_are_those_of_one_process(family):
    config = CONFIGS[family]
    assert model_elements(config, "causal") == Held.of(config, "causal", Layout(), 0).elements


@pytest.mark.parametrize("pieces", [1, 3, 4])
def test_rows_are_the_first_piece_of_every_tensor(pieces):
    model = build(CONFIGS["qwen2"], "causal", Layout(), 0)
    expected = sum(even_cut(p.shape[0], pieces, 0)[1] * int(p.size) // p.shape[0] for p in model.parameters())
    layout = Layout(sharding=pieces, sharding_stage=2 if pieces > 1 else 0)
    assert Held.of(CONFIGS["qwen2"], "causal", layout, 0).rows == expected


@pytest.mark.parametrize("limit", [1, 100_000, 400_000, 10**9])
@pytest.mark.parametrize("kind", ["causal", "score"])
def test_sections_and_buckets_are_those_of_the_reducer(kind, limit, monkeypatch):
    monkeypatch.setattr(message_cuts, "BUCKET_BYTES", limit)
    model = build(CONFIGS["llama"], kind, Layout(), 0)
    held = Held.of(CONFIGS["llama"], kind, Layout(), 0)
    real = _make_sections(dict(model.named_parameters()), find_units(model), pieces=1)
    found = [[part.name for unit in section for part in unit] for section in held.sections(4)]
    assert [sorted(names) for names in found] == [sorted(section.names) for section in real]
    assert sum(count_layers(unit) for section in held.sections(4) for unit in section) == 4


def test_the_largest_bucket_is_as_long_as_the_reducers():
    config = make_config(vocab_size=20_000, hidden_size=256, intermediate_size=2048, num_hidden_layers=6)
    model = build(config, "causal", Layout(), 0)
    real = _make_sections(dict(model.named_parameters()), find_units(model), pieces=1)
    longest = max(bucket.length for section in real for bucket in section.buckets)
    assert Held.of(config, "causal", Layout(), 0).largest_bucket(4) == longest
