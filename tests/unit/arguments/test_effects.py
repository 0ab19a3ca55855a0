"""Keys without an effect are told by name. That every other key arrives somewhere is in ``contract/keys``."""

from __future__ import annotations

from pathlib import Path

import pytest

from alignment.arguments.effects import refuse_unbuilt, report_effects
from alignment.errors import ArgumentError
from alignment.trainers.ppo import arguments as ppo
from alignment.trainers.reward import arguments as rm

FIXTURES = Path(__file__).parent / "fixtures"
PPO = [
    "--train_datasets",
    "p",
    "--actor_model_name_or_path",
    "a",
    "--reward_model_name_or_path",
    "r",
    "--output_dir",
    "o",
]


def _told(argv, device="cpu", world_size=1):
    parsed = ppo.parse_ppo_arguments(argv)
    return {effect.key: str(effect) for effect in report_effects(parsed, device=device, world_size=world_size)}


def test_reference_file_on_one_cpu_process_tells_each_lost_key_once():
    parsed = ppo.parse_ppo_arguments([str(FIXTURES / "ppo_argument.json")])
    refuse_unbuilt(parsed, device="cpu", world_size=1)
    effects = report_effects(parsed, device="cpu", world_size=1)
    assert {effect.key for effect in effects} == {
        "critic_warmup_ratio",
        "bf16",
        "fp16_opt_level",
        "save_steps",
        "tensor_parallel_degree",
        "sharding_parallel_degree",
        "sharding",
        "pipeline_parallel_config",
    }
    assert len(effects) == 8
    assert "tensor_parallel_degree=2 has no effect: this run has one process" in [str(e) for e in effects]


def test_reference_file_of_the_reward_model():
    parsed = rm.parse_reward_arguments([str(FIXTURES / "rm_argument.json")])
    told = {effect.key for effect in report_effects(parsed, device="gpu", world_size=1)}
    assert told == {
        "eval_accumulation_steps",
        "eval_steps",
        "save_steps",
        "metric_for_best_model",
        "sharding",
        "sharding_parallel_degree",
    }


def test_axes_that_are_not_built_are_refused_together():
    parsed = ppo.parse_ppo_arguments([*PPO, "--sep_parallel_degree", "2", "--context_parallel_degree", "4"])
    with pytest.raises(ArgumentError) as error:
        refuse_unbuilt(parsed, device="gpu", world_size=8)
    message = str(error.value)
    assert "2 argument(s)" in message
    assert "sep_parallel_degree=2 is refused" in message
    assert "context_parallel_degree=4 is refused" in message


def test_layout_of_the_reference_file_has_its_effect_on_several_processes():
    parsed = ppo.parse_ppo_arguments([str(FIXTURES / "ppo_argument.json")])
    refuse_unbuilt(parsed, device="gpu", world_size=8)
    told = {effect.key for effect in report_effects(parsed, device="gpu", world_size=8)}
    assert "tensor_parallel_degree" not in told
    assert "bf16" not in told


def test_bf16_without_o2_is_refused_on_a_gpu_only():
    parsed = ppo.parse_ppo_arguments([*PPO, "--bf16"])
    refuse_unbuilt(parsed, device="cpu", world_size=1)
    with pytest.raises(ArgumentError, match="fp16_opt_level=O2"):
        refuse_unbuilt(parsed, device="gpu", world_size=1)


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_the_types_of_the_fused_engine_are_those_of_both_kernels(device):
    types = ["--rollout_weight_type", "int8", "--rollout_kv_type", "bfloat16", "--rollout_kv_memory", "2GiB"]
    refuse_unbuilt(ppo.parse_ppo_arguments([*PPO, *types]), device=device, world_size=1)


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_nothing_given_tells_nothing(device):
    assert _told(PPO, device) == {}


def test_compiled_operators_are_told_on_a_gpu_where_they_are_asked_for():
    asked, declined = ([*PPO, "--use_native_ops", value] for value in ("true", "false"))
    expected = "use_native_ops=true has no effect: the compiled operators are for the CPU"
    assert _told(asked, "gpu") == {"use_native_ops": expected}
    assert _told(declined, "gpu") == _told(asked, "cpu") == _told(declined, "cpu") == {}


def test_null_asks_for_nothing_and_has_no_effect_to_lose():
    given = [*PPO, "--evaluation_strategy", "no"]
    assert _told([*given, "--eval_datasets", "null"]) == {}
    told = _told([*given, "--eval_datasets", "e"])["eval_datasets"]
    assert told.startswith("eval_datasets=e has no effect: nothing is evaluated")


def test_a_cpu_is_deterministic_without_being_asked():
    asked = [*PPO, "--deterministic"]
    expected = "deterministic=true has no effect: CPU results are always reproducible"
    assert _told(asked, "cpu") == {"deterministic": expected}
    assert _told(asked, "gpu") == {}


@pytest.mark.parametrize(
    ("given", "key"),
    [
        (["--ptx_datasets", "alpaca"], "ptx_datasets"),
        (["--ptx_coeff", "16"], "ptx_coeff"),
        (["--kl_horizon", "5"], "kl_horizon"),
        (["--max_steps", "5", "--num_train_epochs", "2"], "num_train_epochs"),
        (["--lr_scheduler_type", "constant", "--warmup_ratio", "0.1"], "warmup_ratio"),
        (["--warmup_steps", "3", "--warmup_ratio", "0.1"], "warmup_ratio"),
        (["--lr_scheduler_type", "constant_with_warmup", "--min_learning_rate", "1e-9"], "min_learning_rate"),
        (["--eval_datasets", "e"], "eval_datasets"),
        (["--eval_do_sample", "false"], "eval_do_sample"),
        (["--eval_greedy", "true"], "eval_greedy"),
        (
            ["--do_eval", "--eval_datasets", "e", "--eval_do_sample", "false", "--eval_greedy", "true"],
            "eval_greedy",
        ),
        (["--reward_server", "http://h:1"], "reward_server"),
        (["--reward_retries", "1"], "reward_retries"),
        (
            ["--clip_range_ratio", "0.3", "--clip_range_ratio_low", ".2", "--clip_range_ratio_high", ".3"],
            "clip_range_ratio",
        ),
        (["--importance_weight_cap", "3", "--on_logprob_gap", "recompute"], "importance_weight_cap"),
        (["--eval_mode", "tensor_parallel"], "eval_mode"),
        (["--use_flash_attention"], "use_flash_attention"),
        (["--recompute_granularity", "core_attn"], "recompute_granularity"),
        (["--power", "1"], "power"),
    ],
)
def test_told(given, key):
    assert key in _told([*PPO, *given])


@pytest.mark.parametrize(
    "given",
    [
        ["--ptx_datasets", "alpaca", "--ptx_coeff", "16"],
        ["--kl_horizon", "5", "--kl_target", "6"],
        ["--importance_weight_cap", "3", "--on_logprob_gap", "correct", "--logprob_gap_limit", "0.01"],
        ["--importance_weight_cap", "3", "--rollout_ahead", "1"],
        ["--num_train_epochs", "2"],
        ["--warmup_ratio", "0.1"],
        ["--tensor_parallel_degree", "1"],
        ["--sharding_parallel_degree", "-1"],
        ["--eval_datasets", "e", "--evaluation_strategy", "steps", "--eval_steps", "3"],
        ["--save_steps", "3"],
        ["--fused_linear", "0"],
    ],
)
def test_not_told(given):
    assert _told([*PPO, *given]) == {}


def test_what_a_failing_function_does_has_an_effect_where_a_second_judge_is_one(tmp_path):
    """Though the reward comes from a model."""
    (tmp_path / "judge.py").write_text("def fair(prompts, responses, labels):\n    return [0.0] * len(prompts)\n")
    given = [*PPO, "--on_reward_failure", "mask_group", "--reward_retries", "1"]
    given += ["--do_eval", "--eval_datasets", "e", "--eval_reward"]
    assert set(_told([*given, "another_model"])) == {"on_reward_failure", "reward_retries"}
    assert _told([*given, f"{tmp_path}/judge.py:fair"]) == _told([*given, "http://localhost:9/score"]) == {}


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (["--critic_lr_scheduler_type", "constant"], "the critic's learning rate is constant"),
        (["--critic_lr_scheduler_type", "linear", "--warmup_steps", "2"], "warmup_steps is set and wins"),
    ],
)
def test_the_reason_told_is_the_one_that_applies(given, reason):
    said = _told([*PPO, "--critic_warmup_ratio", "0.1", *given])["critic_warmup_ratio"]
    assert said == f"critic_warmup_ratio=0.1 has no effect: {reason}"
