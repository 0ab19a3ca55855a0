"""Moments of an update: what a stage holds for backward passes, and gradients before and after the first."""

from __future__ import annotations

import pytest

from alignment.architecture.layout import Layout
from alignment.architecture.pipeline_schedule import Compute, build_schedule, events_of
from alignment.parallel.sharding import message_cuts
from alignment.planner.counts.head import Head, NativeHead
from alignment.planner.models import place_models
from alignment.planner.update import STEP, update_moments
from tests.unit.planner.jobs import make_config, make_job


def moments_of(job, layout=None, *, stage=0, model="policy"):
    placed = place_models(job, layout or Layout(), stage)[model]
    return placed, {moment.name: moment for moment in update_moments(placed)}


@pytest.mark.parametrize("batches", [1, 2, 3, 8])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_stage_holds_as_many_micro_batches_as_the_schedule_lets_it(stage, batches):
    held = most = 0
    for event in events_of(build_schedule(4, 1, batches, with_backward=True), stage, 4):
        if isinstance(event, Compute):
            held += -1 if event.backward else 1
            most = max(most, held)
    placed = place_models(make_job(micro_batches=batches), Layout(pipeline=4), stage)["critic"]
    step = placed.one_pass(placed.job.rows_per_batch)
    one, largest = step.kept(1), max(m.activations for m in update_moments(placed) if m.name == "last layer")
    assert most * one <= largest < (most + 2) * one + step.making_gradient(1 << 16, 1 << 17)


def test_interleaved_chunks_hold_more_micro_batches_of_fewer_layers():
    job = make_job(micro_batches=8)
    plain, chunked = Layout(pipeline=2), Layout(pipeline=2, virtual_stages=2)
    (_, one), (_, two) = moments_of(job, plain), moments_of(job, chunked)
    assert two["last layer"].activations > one["last layer"].activations


def test_before_the_first_backward_pass_there_are_no_gradients():
    placed, moments = moments_of(make_job(micro_batches=1))
    assert moments["logits"].gradients == 0
    assert moments["last layer"].gradients == placed.head_elements * 4
    embedding = placed.held.size_of("embed_tokens.weight")
    assert moments["embedding"].gradients == (placed.held.elements - embedding) * 4
    placed, moments = moments_of(make_job(micro_batches=2))
    assert moments["logits"].gradients == moments["embedding"].gradients == placed.held.elements * 4


def test_before_the_layer_before_the_last_only_gradients_of_the_last_have_come():
    placed, moments = moments_of(make_job(micro_batches=1))
    layer = placed.held.elements - 2 * placed.head_elements - 64
    assert moments["layer before the last"].gradients == (placed.head_elements + layer // 4) * 4
    placed, moments = moments_of(make_job(micro_batches=2))
    assert moments["layer before the last"].gradients == placed.held.elements * 4


def test_fewer_read_tokens_need_less_in_the_last_layer_unless_rows_are_packed():
    jobs = (make_job(response=32), make_job(response=95), make_job(response=32, max_tokens=192))
    few, most, packed = (moments_of(job, model="critic")[1]["last layer"].activations for job in jobs)
    assert few < most < packed


@pytest.mark.parametrize(
    ("changes", "layout", "stage", "role"),
    [
        ({"half": True}, Layout(), 0, "critic"),
        ({}, Layout(), 0, "reward"),
        ({}, Layout(pipeline=2), 0, "policy"),
        ({}, Layout(pipeline=2, virtual_stages=2), 1, "policy"),
        ({}, Layout(tensor=2, sequence_parallel=True), 0, "policy"),
    ],
)
def test_a_last_layer_counts_whole_where_it_may_compute_all_tokens(changes, layout, stage, role):
    model = place_models(make_job(**changes), layout, stage)[role]
    assert model.last_layer(model.one_pass(2)) is None
    assert "layer before the last" not in {moment.name for moment in update_moments(model)}


def test_a_critic_has_no_logits_and_only_the_last_stage_of_a_policy_has():
    layout = Layout(pipeline=2)
    assert "logits" not in moments_of(make_job(), model="critic")[1]
    assert "logits" not in moments_of(make_job(), layout, stage=0)[1]
    assert "logits" in moments_of(make_job(), layout, stage=1)[1]


def test_compiled_operators_need_less_where_they_run():
    for layout in (Layout(), Layout(pipeline=2)):
        last = layout.pipeline - 1
        plain, native = (moments_of(make_job(native=flag), layout, stage=last)[1] for flag in (False, True))
        assert all(native[name].activations < plain[name].activations for name in ("logits", "last layer"))


def test_a_split_vocabulary_has_no_compiled_logits():
    placed = [place_models(make_job(native=True), Layout(tensor=tensor), 0)["policy"] for tensor in (1, 2)]
    heads = [model.head(48, is_scaled=False) for model in placed]
    assert [type(head) for head in heads] == [NativeHead, Head]


def test_sections_give_up_their_layers_one_after_the_other(monkeypatch):
    monkeypatch.setattr(message_cuts, "BUCKET_BYTES", 1)
    job = make_job(policy=make_config(num_hidden_layers=6))
    placed = place_models(job, Layout(sharding=2, sharding_stage=2), 0)["policy"]
    found = [m for m in update_moments(placed) if m.name == "gradients of some layers"]
    kept = [moment.activations for moment in found]
    # Norm and head, six layers, the embedding.
    assert len(found) == 9 and kept == sorted(kept, reverse=True)
    assert all(moment.gradients >= placed.held.rows * 4 for moment in found)
    assert {moment.gathered for moment in found} == {0}


def test_stage_3_has_the_unit_whole_whose_last_gradient_completes_a_section(monkeypatch):
    monkeypatch.setattr(message_cuts, "BUCKET_BYTES", 1)
    placed = place_models(make_job(), Layout(sharding=2, sharding_stage=3), 0)["policy"]
    found = [m.gathered for m in update_moments(placed) if m.name == "gradients of some layers"]
    layer = 64 * (64 + 2 * 32 + 64) + 3 * 64 * 172 + 2 * 64
    assert found == [size * placed.job.item for size in (1003 * 64, 64, *[layer] * 4, 1003 * 64)]


def test_only_the_step_needs_no_activations():
    _, moments = moments_of(make_job())
    assert [name for name, moment in moments.items() if not moment.activations] == [STEP]
