"""Bytes of the rollout engines against real caches and packed models."""

from __future__ import annotations

import re

import numpy as np
import pytest

from alignment.architecture.layout import Layout
from alignment.generation.eager.kv_cache import CacheShape, KVCache
from alignment.generation.engine_placement import WHOLE_MODEL
from alignment.generation.fused.fused_model import FusedModel
from alignment.generation.fused.fused_settings import (
    INT8_ROW_UNIT,
    POSITIONS_OF_SPLIT,
    PRODUCT_WORKSPACE_BYTES,
    ROWS_ON_DEVICE,
    FusedSettings,
)
from alignment.ops.native.library import load_core
from alignment.planner.engines import EagerMemory, FusedMemory, engine_memory
from alignment.planner.rollout import PlannedRollout
from tests.emulated import emulated_kernels
from tests.unit.planner.jobs import make_config, make_job


def place_of(job, layout=None, stage=0):
    return PlannedRollout(job=job, layout=layout or Layout(), stage=stage)


def cache_bytes(job, layout=None, stage=0):
    moments = EagerMemory(place_of(job, layout, stage)).moments()
    return max(moment.device.get("key-value cache", 0) for moment in moments)


@pytest.mark.parametrize("length", [64, 100, 250])
def test_the_cache_is_as_large_as_the_real_one_of_full_rows(length):
    job = make_job(length=length, response=length - 20, iteration_rows=5)
    config = job.policy
    shape = CacheShape(
        config.num_hidden_layers,
        config.num_attention_heads,
        config.num_key_value_heads,
        config.head_dim,
        None,
        "float32",
    )
    cache = KVCache(shape, np.full(5, 20), max_length=length)
    grew = False
    while cache.lengths[0] < length:
        before = cache._capacity
        cache.open_step()
        cache.close_step()
        grew = grew or cache._capacity > before
    real = [int(tensor.size) * 4 for tensor in (*cache._keys, *cache._values)]
    # While it grows, one tensor is there twice.
    assert cache_bytes(job) == sum(real) + (real[0] if grew else 0)


def test_the_cache_is_shared_by_stages_tensor_processes_and_rollout_replicas():
    job = make_job(iteration_rows=8)
    whole = cache_bytes(job)
    assert cache_bytes(job, Layout(pipeline=2)) == whole // 2
    assert cache_bytes(job, Layout(tensor=4)) == whole // 4
    # Key heads that are fewer than processes live on several.
    assert cache_bytes(job, Layout(tensor=8)) == whole // 4
    single = make_job(iteration_rows=8, eval_mode="single")
    assert cache_bytes(single, Layout(tensor=4)) == whole // 4
    limited = make_job(iteration_rows=8, side_by_side=2)
    assert cache_bytes(limited) == whole // 4


def test_half_precision_halves_the_cache():
    assert cache_bytes(make_job(half=True)) * 2 == cache_bytes(make_job())


def test_only_a_tied_head_and_what_another_layout_needs_is_copied():
    tied = make_job(policy=make_config(tie_word_embeddings=True))
    embedding = tied.policy.vocab_size * tied.policy.hidden_size * 4
    assert EagerMemory(place_of(make_job())).standing == {"rollout weights": 0}
    assert EagerMemory(place_of(tied)).standing == {"rollout weights": embedding}
    assert EagerMemory(place_of(tied, Layout(pipeline=2), stage=0)).standing == {"rollout weights": 0}
    assert EagerMemory(place_of(tied, Layout(pipeline=2), stage=1)).standing == {"rollout weights": embedding}


@pytest.mark.parametrize(
    ("layout", "mode", "copied"),
    [
        (Layout(tensor=2), None, "nothing"),
        (Layout(data=2), "single", "nothing"),
        (Layout(sharding=2, sharding_stage=2), "single", "nothing"),
        (Layout(sharding=2, sharding_stage=3), None, "all"),
        (Layout(tensor=2), "single", "matrices"),
        (Layout(pipeline=2), "single", "other stage"),
    ],
)
def test_weights_that_stand_as_they_are_needed_are_not_copied(layout, mode, copied):
    place = place_of(make_job(eval_mode=mode), layout)
    everything = sum(part.size for part in place.wanted) * 4
    norms = sum(part.size for part in place.wanted if "norm" in part.name) * 4
    other = sum(part.size for part in place.wanted if "layers.2" in part.name or "layers.3" in part.name) * 4
    rest = sum(part.size for part in place.wanted if part.name in ("model.norm.weight", "lm_head.weight")) * 4
    sizes = {"nothing": 0, "all": everything, "matrices": everything - norms, "other stage": other + rest}
    assert place.copied == sizes[copied]
    assert place.copied <= place.coming + 1 if place.copied else place.coming == 0


def test_the_fused_engine_is_taken_where_it_can_be():
    fused = make_job(fused=True)
    assert isinstance(engine_memory(place_of(fused)), FusedMemory)
    assert isinstance(engine_memory(place_of(make_job())), EagerMemory)
    assert isinstance(engine_memory(place_of(fused, Layout(pipeline=2))), EagerMemory)
    assert isinstance(
        engine_memory(place_of(make_job(fused=True, eval_mode="single"), Layout(pipeline=2))), FusedMemory
    )


@pytest.mark.skipif(load_core() is None, reason="no kernel library")
@pytest.mark.parametrize("weight_type", ["float32", "bfloat16"])
@pytest.mark.parametrize("tied", [False, True])
def test_the_fused_engine_holds_what_is_counted(weight_type, tied):
    config = make_config(tie_word_embeddings=tied, hidden_size=128, intermediate_size=256)
    job = make_job(policy=config, fused=True, rollout_weight_type=weight_type, iteration_rows=4)
    counted = FusedMemory(place_of(job)).standing_on_host
    block_tokens = FusedSettings().block_tokens
    places = -(-job.length // block_tokens) * block_tokens
    token = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * 4
    settings = FusedSettings(num_slots=4, max_length=job.length, kv_memory=4 * places * token, weight_type=weight_type)
    real = FusedModel(load_core(), config, settings)
    assert counted["rollout weights"] + counted["key-value cache"] == pytest.approx(real.num_bytes, rel=0.03)
    real.close()


@pytest.mark.parametrize("weight_type", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize(("tied", "length", "rows"), [(False, 96, 4), (True, 96, 4), (True, 1000, 64)])
def test_the_fused_engine_of_a_gpu_holds_what_is_counted_on_the_device(weight_type, tied, length, rows):
    """The blocks are as many as a run asks for, not as the plan says."""
    config = make_config(hidden_size=256, intermediate_size=500, tie_word_embeddings=tied, max_position_embeddings=1024)
    given = {
        "rollout_weight_type": weight_type,
        "rollout_kv_type": "bfloat16",
        "iteration_rows": rows,
        "length": length,
    }
    memory = engine_memory(place_of(make_job(policy=config, fused=True, on_gpu=True, **given)))
    assert isinstance(memory, FusedMemory) and memory.standing_on_host == {}
    assert all(not moment.host for moment in memory.moments())
    settings = FusedSettings(
        num_slots=rows,
        max_length=length,
        kv_memory="8GiB",
        weight_type=weight_type,
        kv_type="bfloat16",
        max_rows=ROWS_ON_DEVICE,
    )
    real = emulated_kernels().pack(config, settings, WHOLE_MODEL)
    # The emulated build multiplies without cuBLASLt, whose workspace is not part of the model's bytes.
    workspace = 0 if weight_type == "int8" else PRODUCT_WORKSPACE_BYTES
    assert sum(memory.standing.values()) - workspace == pytest.approx(real.num_bytes, rel=0.002)
    assert memory.standing["key-value cache"] == real.pool.num_blocks * real.pool.block_bytes
    sampling = next(moment for moment in memory.moments() if moment.name == "decode step").device["sampling"]
    workspace = real._device.library.handle.acu_sample_bytes(rows, config.vocab_size)
    assert sampling == pytest.approx(4 * real._logits.size + workspace, rel=0.02), "the kernels pad the vocabulary"
    real.close()


def test_the_constants_of_the_cuda_kernels_are_those_of_their_sources(repo_root):
    sources = repo_root / "csrc" / "cuda"
    (workspace,) = re.findall(r"WORKSPACE_BYTES = (\d+) << (\d+);", (sources / "matmul.cu").read_text())
    assert int(workspace[0]) << int(workspace[1]) == PRODUCT_WORKSPACE_BYTES
    layout = (sources / "layout.h").read_text()
    tile, tiles = (int(re.search(rf"constexpr int {name} = (\d+);", layout)[1]) for name in ("TILE", "TILES_PER_CHUNK"))
    assert tile * tiles == POSITIONS_OF_SPLIT
    products = (sources / "byte_products.h").read_text()
    assert int(re.search(r"constexpr int BYTE_SLICE = (\d+);", products)[1]) == INT8_ROW_UNIT


def test_a_limit_of_the_keys_and_values_holds():
    assert FusedMemory(place_of(make_job(rollout_kv_memory="4KiB"))).standing_on_host["key-value cache"] == 4096
