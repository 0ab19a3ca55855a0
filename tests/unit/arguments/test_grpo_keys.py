"""The keys of GRPO beside those of PPO: what is refused, what is told, what has another default."""

from __future__ import annotations

from pathlib import Path

import pytest

from alignment.arguments.effects import report_effects
from alignment.errors import ArgumentError
from alignment.trainers.ppo.arguments import parse_ppo_arguments

FIXTURES = Path(__file__).parent / "fixtures"
GRPO = ["--train_datasets", "p", "--actor_model_name_or_path", "a", "--reward_model_name_or_path", "r"]
GRPO += ["--output_dir", "o", "--rl_algorithm", "grpo"]
PAIRS = [*GRPO, "--num_return_sequences", "2"]


def _problems(argv):
    with pytest.raises(ArgumentError) as error:
        parse_ppo_arguments(argv)
    return str(error.value).split("\n  ")[1:]


def test_a_group_of_one_is_refused_given_or_not():
    said = "num_return_sequences=1 with rl_algorithm=grpo, which compares the responses to one prompt: give at least 2"
    assert _problems(GRPO) == _problems([*GRPO, "--num_return_sequences", "1"]) == [said]
    assert parse_ppo_arguments(PAIRS).on_policy.num_return_sequences == 2


@pytest.mark.parametrize("key", ["gamma", "gae_lambda", "critic_learning_rate", "critic_recompute", "clip_placement"])
def test_keys_of_ppo_alone_are_refused_by_name(key):
    value = {"critic_recompute": "true", "clip_placement": "token"}.get(key, "0.5")
    assert _problems([*PAIRS, f"--{key}", value]) == [
        f"{key} belongs to rl_algorithm=ppo; this run has rl_algorithm=grpo (command line)"
    ]


@pytest.mark.parametrize("key", ["reward_critic_model_name_or_path", "critic_model_name_or_path"])
def test_the_model_of_a_critic_is_refused_under_both_its_names(key):
    said = f"{key} belongs to rl_algorithm=ppo; this run has rl_algorithm=grpo (command line)"
    assert _problems([*PAIRS, f"--{key}", "c"]) == [said]


def test_keys_of_grpo_alone_are_refused_for_ppo():
    said = "scale_rewards belongs to rl_algorithm=grpo; this run has rl_algorithm=ppo (command line)"
    assert _problems([*GRPO[:-2], "--scale_rewards", "none"]) == [said]


def test_defaults_are_those_of_the_reference_suite():
    algorithm = parse_ppo_arguments(PAIRS).algorithm
    expected = {
        "kl_coeff": 0.0, "kl_loss_coeff": 0.001, "pg_loss_coeff": 1.0, "clip_range_ratio": 0.2, "entropy_coeff": 0.0,
        "clip_range_score": 10.0, "scale_rewards": "group", "normalize_advantage": False,
        "policy_loss_reduction": "token",
    }  # fmt: skip
    assert {key: getattr(algorithm, key) for key in expected} == expected
    assert "critic" not in parse_ppo_arguments(PAIRS).groups


def test_a_function_or_a_service_needs_no_model_of_a_critic():
    argv = [*PAIRS[:4], *PAIRS[6:], "--use_rm_server", "--reward_server", "http://h:1"]
    assert parse_ppo_arguments(argv).reward_source.use_rm_server


def test_the_models_of_the_run_are_not_deleted_by_it(tmp_path):
    (tmp_path / "o" / "a").mkdir(parents=True)
    changes = {"actor_model_name_or_path": str(tmp_path / "o" / "a"), "output_dir": str(tmp_path / "o")}
    given = [*PAIRS, *(part for key, value in changes.items() for part in (f"--{key}", value))]
    argv = [*given[:2], *given[4:6], *given[8:], "--overwrite_output_dir"]
    assert _problems(argv) == [
        f"overwrite_output_dir=true would delete actor_model_name_or_path={tmp_path}/o/a, which lies in output_dir; "
        "name another folder"
    ]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--kl_target", "6"], {"kl_target": "kl_coeff is 0 and stays 0"}),
        (["--kl_estimator", "k3"], {"kl_estimator": "kl_coeff is 0"}),
        (["--kl_estimator", "k3", "--kl_coeff", "0.1"], {}),
        (["--clip_range_score", "3", "--kl_loss_coeff", "0"], {"clip_range_score": "kl_loss_coeff is 0"}),
        (["--loss_length", "64"], {"loss_length": "policy_loss_reduction is not constant"}),
        (["--loss_length", "64", "--policy_loss_reduction", "constant"], {}),
        (["--clip_range_value", "0.2"], {"clip_range_value": "this algorithm has no critic"}),
        (["--per_device_value_batch_size", "4"], {"per_device_value_batch_size": "this algorithm has no critic"}),
    ],
)
def test_a_key_without_effect_is_told(given, told):
    effects = report_effects(parse_ppo_arguments([*PAIRS, *given]), device="cpu", world_size=1)
    assert {effect.key: effect.message for effect in effects} == told
