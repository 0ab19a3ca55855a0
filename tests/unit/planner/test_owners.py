"""What is held at once is stated by the module that holds it; the plan follows when it changes its number."""

from __future__ import annotations

from types import ModuleType

import pytest

from alignment.architecture import reshard_plan
from alignment.architecture.layout import Layout
from alignment.generation import sampling
from alignment.generation.eager import room
from alignment.generation.fused import fused_settings
from alignment.ops import pieces
from alignment.parallel.sharding import message_cuts
from alignment.planner.memory import StageMemory
from tests.unit.planner.jobs import make_config, make_job

LARGE = {"policy": make_config(vocab_size=32_000), "rows_per_batch": 64, "length": 512, "response": 256}
ON_GPU = {
    "policy": make_config(hidden_size=256, intermediate_size=512),
    "fused": True,
    "on_gpu": True,
    "rollout_weight_type": "bfloat16",
    "rollout_kv_type": "bfloat16",
}
SHARDED = Layout(sharding=2, sharding_stage=2)
OWNERS = [
    (pieces, "LOGIT_BYTES", 1 << 20, "update", LARGE, Layout()),
    (pieces, "DEVICE_LOGIT_BYTES", 1 << 20, "update", {**LARGE, "half": True, "native": False}, Layout()),
    (pieces, "SCORE_BYTES", 1 << 20, "update", {**LARGE, "native": False}, Layout()),
    (pieces, "QUERY_TILE", 96, "update", {"native": True}, Layout()),
    (pieces, "WIDE_KEY_BYTES", 1, "rollout", {"length": 2048, "half": True, "native": False}, Layout()),
    (message_cuts, "BUCKET_BYTES", 1, "update", {}, SHARDED),
    (message_cuts, "SQUARED_AT_ONCE", 1, "update", {}, Layout(data=2)),
    (reshard_plan, "MESSAGE_BYTES", 1024, "rollout", {"eval_mode": "single"}, Layout(tensor=2)),
    (room, "PROMPT_TOKENS", 1 << 20, "rollout", LARGE, Layout()),
    (room, "DEVICE_PROMPT_TOKENS", 1, "rollout", {**LARGE, "half": True, "native": False}, Layout()),
    (room, "PAGE", 1 << 20, "rollout", LARGE, Layout()),
    (room, "MULTIPLE", 1024, "rollout", LARGE, Layout()),
    (sampling, "HOST_COPIES", 7, "rollout", {}, Layout()),
    (sampling, "DEVICE_COPIES", 11, "rollout", {"half": True, "native": False}, Layout()),
    (fused_settings, "ROWS_ON_DEVICE", 4096, "rollout", ON_GPU, Layout()),
]


def bytes_of(job, layout, phase):
    """Return every moment of ``phase`` of the first stage."""
    return [moment.by_name for moment in StageMemory(job, layout, 0).moments(phase)]


@pytest.mark.parametrize(
    ("owner", "name", "value", "phase", "given", "layout"), OWNERS, ids=[name for _, name, *_ in OWNERS]
)
def test_the_plan_follows_its_owner(owner: ModuleType, name, value, phase, given, layout, monkeypatch):
    job = make_job(**given)
    before = bytes_of(job, layout, phase)
    monkeypatch.setattr(owner, name, value)
    assert bytes_of(job, layout, phase) != before


def test_the_plan_follows_the_types_of_the_fused_engine(monkeypatch):
    job = make_job(fused=True, rollout_weight_type="int8")
    before = bytes_of(job, Layout(), "rollout")
    monkeypatch.setitem(fused_settings.TYPE_BYTES, "int8", 2)
    assert bytes_of(job, Layout(), "rollout") != before
