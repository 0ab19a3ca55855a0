"""Bytes of gradients: what is held between micro-batches, at the step, and what cutting saves."""

from __future__ import annotations

import pytest
from paddle.base import core

from alignment.architecture.layout import Layout
from alignment.models.decoder.initialise import draw_weights
from alignment.models.decoder.logprobs import token_values
from alignment.models.decoder.score_model import ScoreModel, ScoreOptions
from alignment.parallel.sharding.partition import ParameterShards
from alignment.parallel.topology import Topology
from alignment.planner.counts.gradients import Gradients
from alignment.planner.counts.shapes import Held
from tests.unit.planner.counts.test_activations import Allocated, full_batch
from tests.unit.planner.jobs import make_config

CONFIG = make_config(hidden_size=256, intermediate_size=704, vocab_size=3000, num_hidden_layers=6)


def gradients_of(layout, *, item=4, config=CONFIG):
    return Gradients(held=Held.of(config, "score", layout, 0), layout=layout, item=item)


def test_between_micro_batches_all_gradients_are_held_or_sums_of_rows():
    elements = Held.of(CONFIG, "score", Layout(), 0).elements
    assert gradients_of(Layout()).between_batches == elements * 4
    assert gradients_of(Layout(data=4)).between_batches == elements * 4
    assert gradients_of(Layout(sharding=4, sharding_stage=1)).between_batches == elements * 4
    rows = gradients_of(Layout(sharding=4, sharding_stage=2)).between_batches
    assert elements <= rows < elements * 1.01


def test_half_precision_gradients_are_summed_in_float32():
    assert gradients_of(Layout(), item=2).between_batches == gradients_of(Layout(), item=4).between_batches
    # One of 10 numbers comes: itself, in float32, and the new sum.
    assert gradients_of(Layout(), item=2).arriving(10, is_first=False) == 10 * (2 + 4 + 4)
    assert gradients_of(Layout(), item=2).arriving(10, is_first=True) == 10 * (2 + 4)
    assert gradients_of(Layout(), item=4).arriving(10, is_first=False) == 10 * 4
    assert gradients_of(Layout(data=2), item=4).arriving(10, is_first=False) == 10 * 8


def test_sections_come_with_sharding_stage_2_and_cover_all_layers():
    assert gradients_of(Layout(sharding=2, sharding_stage=1)).sections == []
    config = make_config(hidden_size=512, intermediate_size=1376, num_hidden_layers=6)
    found = gradients_of(Layout(sharding=2, sharding_stage=2), config=config)
    assert [section.layers for section in found.sections] == [3, 3, 0]
    assert all(section.pending < found.held.elements * 4 for section in found.sections)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_more_processes_that_share_never_need_more(stage):
    layouts = [Layout(sharding=n, sharding_stage=stage) for n in (2, 4, 8)]
    for name in ("between_batches", "for_update", "finishing"):
        sizes = [getattr(gradients_of(layout), name) for layout in layouts]
        assert sizes == sorted(sizes, reverse=True), name


def test_what_the_sums_need_is_what_paddle_gives_out():
    model = ScoreModel(CONFIG, ScoreOptions())
    draw_weights(model, seed=1, std=0.02)
    shards = ParameterShards(model, Topology(device="cpu"), stage=0, part_of=model.parts.__getitem__)
    before = core.host_memory_stat_current_value("Allocated", 0)
    token_values(model, full_batch()).sum().backward()
    # As in a layout of two processes, whose messages need nothing here.
    counted = gradients_of(Layout(data=2))
    held = core.host_memory_stat_current_value("Allocated", 0) - before
    assert held == pytest.approx(counted.between_batches, rel=0.01)
    allocated = Allocated()
    shards.finish_gradients()
    shards.squared_norm()
    assert allocated.peak() + held == pytest.approx(counted.finishing, rel=0.02)
