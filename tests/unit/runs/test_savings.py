"""Which forward passes are saved where nothing is said, and what stands against it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from alignment.errors import ArgumentError
from alignment.parallel.micro_batches import MicroBatches
from alignment.runs.on_policy import savings
from alignment.runs.on_policy.prompts import RowPlan
from alignment.runs.on_policy.savings import build_logprob_check, takes_values_from_update
from alignment.trainers.ppo.arguments import parse_ppo_arguments

MODELS = ["--actor_model_name_or_path", "o/a", "--reward_model_name_or_path", "o/r"]
NEEDED = ["--train_datasets", "packing-prompts/train", "--output_dir", "o", *MODELS]


def _launch(*words, dtype="float32", roles=()):
    parsed = parse_ppo_arguments([*NEEDED, *words])
    products = parsed.training.product_dtype("cpu") if dtype == "float32" else dtype
    return SimpleNamespace(parsed=parsed, dtype=dtype, product_dtype=products, roles=roles)


def _plan(rows, *, per_update=None, update_iters=1):
    micro = MicroBatches(rows=2)
    return RowPlan(
        prompts_per_iteration=rows, samples_per_prompt=1, rows_per_update=per_update or rows, micro_batches=micro,
        update_iters=update_iters,
    )  # fmt: skip


@pytest.mark.parametrize(("rows", "checked"), [(128, 8), (33, 3), (16, 1), (2, 1)])
def test_one_response_in_16_is_checked(rows, checked):
    assert build_logprob_check(_launch(), _plan(rows)).num_rows == checked


@pytest.mark.parametrize(
    ("words", "dtype"),
    [
        ([], "bfloat16"),
        (["--rollout_weight_type", "int8"], "float32"),
        (["--rollout_kv_type", "bfloat16"], "float32"),
        (["--float32_matmul_precision", "medium"], "float32"),
        (["--on_logprob_gap", "recompute"], "float32"),
        (["--rollout_ahead", "1"], "float32"),
        (["--use_rollout_logprobs", "false"], "float32"),
    ],
)
def test_the_trainer_computes_all_where_the_engine_is_another_or_all_are_needed(words, dtype):
    assert build_logprob_check(_launch(*words, dtype=dtype), _plan(64)) is None


def test_what_is_asked_for_is_done_in_any_type_but_a_single_response_is_the_trainers():
    asked = _launch("--use_rollout_logprobs", "true", dtype="bfloat16")
    assert build_logprob_check(asked, _plan(64)).num_rows == 4
    assert build_logprob_check(asked, _plan(1)) is None, "nothing would be left to take from the engine"


@pytest.mark.parametrize(
    ("plan", "roles", "obstacle"),
    [
        (_plan(8), (), None),
        (_plan(8, update_iters=2), (), "each rollout is 2 updates"),
        (_plan(8, per_update=4), (), "each rollout is 2 updates"),
        (_plan(8), ("policy",), "with placement the critic learns beside the policy"),
    ],
)
def test_the_critic_learns_from_its_own_values_where_it_can(plan, roles, obstacle):
    assert takes_values_from_update(_launch(roles=roles), plan) == (obstacle is None)
    if obstacle is not None:
        with pytest.raises(ArgumentError, match=f"values_from_update=true cannot be: {obstacle}"):
            takes_values_from_update(_launch("--values_from_update", "true", roles=roles), plan)


def test_it_does_not_where_it_learns_with_dropout():
    assert not takes_values_from_update(_launch("--lora", "true", "--lora_dropout", "0.1"), _plan(8))


@pytest.mark.parametrize(
    ("words", "rows", "says"),
    [
        (["--use_rollout_logprobs", "true"], 1, ["use_rollout_logprobs=true without effect: "]),
        (["--logprob_check_rows", "64"], 64, ["logprob_check_rows=64 without effect: "]),
        (["--logprob_check_rows", "4", "--rollout_ahead", "1"], 64, ["logprob_check_rows=4 without effect: "]),
        (["--use_rollout_logprobs", "auto"], 1, []),
        (["--use_rollout_logprobs", "false", "--logprob_check_rows", "4"], 64, []),
    ],
)
def test_what_is_asked_for_in_vain_is_said(words, rows, says, monkeypatch):
    told = []
    monkeypatch.setattr(savings.log, "warn", told.append)
    assert build_logprob_check(_launch(*words), _plan(rows)) is None
    assert [line.partition(": ")[0] + ": " for line in told] == says
    assert all("(None)" not in line for line in told)


def test_a_batch_of_values_that_are_not_measured_is_said(monkeypatch):
    told = []
    monkeypatch.setattr(savings.log, "info", told.append)
    assert takes_values_from_update(_launch("--per_device_value_batch_size", "2"), _plan(8))
    assert "per_device_value_batch_size has no effect" in told[0]
    takes_values_from_update(_launch(), _plan(8))
    assert "no effect" not in told[1]
