"""A run with adapters: what is trained and held, by numbers that can be counted by hand."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from alignment.architecture.adapter import Adapter, choose_modules
from alignment.architecture.layout import Layout
from alignment.arguments.keys.adapter import AdapterArguments
from alignment.errors import ArgumentError
from alignment.planner.memory import StageMemory
from alignment.planner.messages import update_bytes
from alignment.planner.models import place_models
from alignment.planner.reading import plan_adapters
from tests.unit.planner.jobs import make_config, make_job

CONFIG = make_config()
RANK = 4
# of 64 inputs: 64 queries, 32 keys and values, 172 inner columns; four layers
FACTORS = 4 * RANK * ((64 + 64) + 2 * (64 + 32) + (64 + 64) + 2 * (64 + 172) + (172 + 64))
MATRICES = 4 * (64 * (64 + 2 * 32 + 64) + 3 * 64 * 172)
BASE = MATRICES + 2 * 1003 * 64 + 64 + 4 * 2 * 64


def _adapter(*, dropout=0.0, targets=("all-linear",)):
    return Adapter(rank=RANK, alpha=8, dropout=dropout, modules=choose_modules(CONFIG, targets))


def _job(adapter=None, **changes):
    adapters = {"policy": adapter or _adapter()}
    return make_job(**{"critic": None, "reward": None, "has_reference": False, "adapters": adapters, **changes})


def _policy(layout=None, **changes):
    return place_models(_job(**changes), layout or Layout(), 0)["policy"]


def test_only_the_factors_have_gradients_and_optimizer_state():
    policy = _policy()
    assert policy.weights == 4 * (BASE + FACTORS)
    assert (policy.optimizer, policy.gradients.between_batches) == (8 * FACTORS, 4 * FACTORS)


def test_half_precision_has_masters_of_the_factors_alone():
    policy = _policy(half=True)
    assert (policy.weights, policy.optimizer) == (2 * (BASE + FACTORS), 12 * FACTORS)


def test_a_score_head_is_trained_too():
    score = place_models(make_job(adapters={"critic": _adapter()}), Layout(), 0)["critic"]
    assert score.optimizer == 8 * (FACTORS + 64)


def test_matrices_in_4_bits_take_four_and_a_half():
    assert _policy(four_bit=True).weights == 4 * (BASE - MATRICES + FACTORS) + MATRICES * 9 // 16


def test_tensor_processes_share_the_factors_as_their_matrices():
    """Of a matrix cut by columns A is whole and B is cut, of one cut by rows the other way round."""
    halves = 4 * RANK * ((64 + 32) + 2 * (64 + 16) + (32 + 64) + 2 * (64 + 86) + (86 + 64))
    assert _policy(Layout(tensor=2)).optimizer == 8 * halves


def test_dropout_keeps_its_masks_and_the_inputs_without_what_it_dropped():
    tokens, inputs = 2 * 96, 5 * 64 + 64 + 172
    plain, dropped = (_policy(adapter=_adapter(dropout=rate)).one_pass(2).kept_by_layer for rate in (0.0, 0.1))
    assert dropped - plain == 4 * tokens * 2 * inputs


def test_the_reference_of_a_policy_with_an_adapter_takes_nothing():
    job = _job(phases=("reference", "update"))
    moments = list(StageMemory(job, Layout(), 0).moments("reference"))
    assert [moment.name for moment in moments] == ["policy forward"]
    assert all(moment.device.get("reference weights") is None for moment in moments)


@pytest.mark.parametrize(("fused", "wanted"), [(False, 4 * 4 * 64 * 64), (True, 0)])
def test_the_eager_engine_holds_the_merged_matrices_again(fused, wanted):
    job = _job(adapter=_adapter(targets=["q_proj"]), fused=fused)
    moment = next(m for m in StageMemory(job, Layout(), 0).moments("rollout") if m.name == "decode step")
    assert moment.device.get("rollout weights", 0) == wanted


def test_only_gradients_of_the_factors_are_sent():
    assert update_bytes(_job(), Layout(data=2), role="policy")["batch"] == FACTORS * 4


def test_the_adapters_of_a_run_are_those_of_its_keys_and_of_lora_path(tmp_path):
    def plan(**keys):
        return plan_adapters(SimpleNamespace(adapter=AdapterArguments(**keys)), {"policy": CONFIG, "critic": CONFIG})

    described = {"peft_type": "LORA", "r": 5, "lora_alpha": 5, "target_modules": ["v_proj"]}
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "adapter_config.json").write_text(json.dumps(described))
    assert plan() == {}
    assert {role: adapter.rank for role, adapter in plan(lora=True, lora_rank=3).items()} == {"policy": 3, "critic": 3}
    continued = plan(lora=True, lora_path=str(tmp_path))
    assert {role: (a.rank, len(a.modules)) for role, a in continued.items()} == {"policy": (5, 4), "critic": (8, 28)}
    with pytest.raises(ArgumentError, match=r"no adapter_config.json there"):
        plan(lora=True, lora_path=str(tmp_path / "policy" / "policy"))


def test_the_fused_engine_is_given_merged_matrices_one_by_one():
    """They are no message from another layout, of which several would exist at once."""
    moments = StageMemory(_job(fused=True), Layout(), 0).moments("rollout")
    arriving = next(moment for moment in moments if moment.name == "weights arrive")
    assert "rollout weights" not in arriving.device
