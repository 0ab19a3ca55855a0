"""The keys of GRPO beside those of PPO: what is refused, what is told, what has another default."""

from __future__ import annotations

from pathlib import Path

import pytest

from alignment.arguments.effects import refuse_unbuilt, report_effects
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


@pytest.mark.parametrize("key", ["gae_lambda", "critic_learning_rate", "critic_recompute", "clip_placement"])
def test_keys_of_ppo_alone_are_refused_by_name(key):
    value = {"critic_recompute": "true", "clip_placement": "token"}.get(key, "0.5")
    assert _problems([*PAIRS, f"--{key}", value]) == [
        f"{key} belongs to rl_algorithm=ppo or ppo_lagrangian; this run has rl_algorithm=grpo (command line)"
    ]


@pytest.mark.parametrize("key", ["reward_critic_model_name_or_path", "critic_model_name_or_path"])
def test_the_model_of_a_critic_is_refused_under_both_its_names(key):
    owners = "rl_algorithm=ppo or ppo_lagrangian"
    said = f"{key} belongs to {owners}; this run has rl_algorithm=grpo (command line)"
    assert _problems([*PAIRS, f"--{key}", "c"]) == [said]


def test_keys_of_grpo_alone_are_refused_for_ppo():
    said = "scale_rewards belongs to rl_algorithm=grpo, dr_grpo, dapo, gspo, cispo or sapo; this run has"
    assert _problems([*GRPO[:-2], "--scale_rewards", "none"]) == [f"{said} rl_algorithm=ppo (command line)"]


def _of(name, *given):
    return parse_ppo_arguments([*PAIRS[:-4], "--rl_algorithm", name, "--num_return_sequences", "2", *given])


@pytest.mark.parametrize(
    ("name", "defaults"),
    [
        ("rloo", {"kl_coeff": 0.05, "kl_loss_coeff": 0.0, "normalize_advantage": False}),
        ("reinforce_plus_plus", {"kl_coeff": 0.02, "kl_loss_coeff": 0.001, "gamma": 1.0}),
        ("remax", {"kl_coeff": 0.05, "kl_loss_coeff": 0.0, "normalize_advantage": False}),
        ("opo", {"kl_coeff": 0.0, "kl_loss_coeff": 0.0}),
        ("dr_grpo", {"scale_rewards": "none", "policy_loss_reduction": "constant", "kl_loss_coeff": 0.0}),
        ("gspo", {"clip_range_ratio_low": 3e-4, "clip_range_ratio_high": 4e-4, "policy_loss_reduction": "sequence"}),
        ("gspo", {"importance_sampling_level": "sequence", "scale_rewards": "group"}),
        ("dapo", {"clip_range_ratio_low": 0.2, "clip_range_ratio_high": 0.28, "dynamic_sampling": True}),
        ("dapo", {"kl_loss_coeff": 0.0, "policy_loss_reduction": "token", "max_gen_batches": 2}),
        ("cispo", {"ratio_cap": 5.0, "policy_loss_reduction": "token"}),
        ("sapo", {"sapo_temperature_pos": 1.0, "sapo_temperature_neg": 1.05, "policy_loss_reduction": "sequence"}),
    ],
)
def test_an_algorithm_is_a_name_for_its_defaults(name, defaults):
    algorithm = _of(name).algorithm
    assert {key: getattr(algorithm, key) for key in defaults} == defaults


@pytest.mark.parametrize(
    ("key", "peers_word", "name"),
    [
        ("advantage_estimator", "gae", "ppo"),
        ("advantage_estimator", "reinforce", "reinforce_plus_plus"),
        ("advantage_estimator", "reinforce_baseline", "reinforce_plus_plus_baseline"),
        ("advantage_estimator", "group_norm", "grpo"),
        ("adv_estimator", "rloo", "rloo"),
        ("rl_algorithm", "reinforce++", "reinforce_plus_plus"),
    ],
)
def test_peers_names_of_algorithms_are_understood(key, peers_word, name):
    argv = [*PAIRS[:-4], f"--{key}", peers_word, "--num_return_sequences", "2"]
    assert parse_ppo_arguments(argv).on_policy.rl_algorithm == name


@pytest.mark.parametrize("name", ["ppo", "reinforce_plus_plus"])
def test_dynamic_sampling_without_groups_is_refused(name):
    said = "num_return_sequences=1 with dynamic_sampling=true, which compares the rewards of the responses to one"
    argv = [*PAIRS[:-4], "--rl_algorithm", name, "--dynamic_sampling"]
    assert _problems(argv) == [f"{said} prompt: give at least 2"]


def test_a_greedy_baseline_on_another_scale_is_refused():
    with pytest.raises(ArgumentError, match="normalize_reward=true with rl_algorithm=remax .*: give"):
        _of("remax", "--normalize_reward")


def test_a_normalised_source_is_refused_with_a_greedy_baseline(tmp_path):
    file = tmp_path / "f.py"
    file.write_text("")
    sources = f'[{{"name": "{file}:good", "normalize": true}}, "{file}:other"]'
    argv = [*GRPO[:4], *GRPO[6:-1], "remax", "--reward_sources", sources]
    (said,) = _problems(argv)
    assert said == (
        'reward_sources: "normalize": true of good with rl_algorithm=remax would scale a response and its greedy '
        "baseline by different statistics: leave it out (normalize_advantage=true scales the advantages)"
    )


def test_dynamic_sampling_is_refused_where_the_mean_cost_counts():
    given = ["--cost_model_name_or_path", "c", "--dynamic_sampling", "--num_return_sequences", "2"]
    assert _problems([*PAIRS[:-4], "--rl_algorithm", "ppo_lagrangian", *given]) == [
        "dynamic_sampling=true with rl_algorithm=ppo_lagrangian would compare with threshold the costs of only those "
        "prompts whose rewards differ: give dynamic_sampling=false"
    ]


def test_an_unknown_algorithm_is_told_the_nearest():
    (said,) = _problems([*PAIRS[:-4], "--rl_algorithm", "reinforce_pp"])
    assert "did you mean 'reinforce_plus_plus'" in said


@pytest.mark.parametrize("name", ["cispo", "sapo"])
@pytest.mark.parametrize("key", ["clip_range_ratio", "clip_range_ratio_low", "clip_range_ratio_high", "dual_clip"])
def test_a_clip_is_refused_where_nothing_is_clipped(name, key):
    with pytest.raises(ArgumentError, match=f"{key}: .* is refused: {name} does not clip"):
        _of(name, f"--{key}", "3" if key == "dual_clip" else "0.1")


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
        (["--kl_loss_estimator", "k2", "--kl_loss_coeff", "0"], {"kl_loss_estimator": "kl_loss_coeff is 0"}),
        (["--kl_loss_estimator", "k3+"], {}),
        (["--max_gen_batches", "3"], {"max_gen_batches": "dynamic_sampling is false"}),
        (["--loss_length", "64"], {"loss_length": "policy_loss_reduction is not constant"}),
        (["--loss_length", "64", "--policy_loss_reduction", "constant"], {}),
        (["--clip_range_value", "0.2"], {"clip_range_value": "this algorithm has no critic"}),
        (["--per_device_value_batch_size", "4"], {"per_device_value_batch_size": "this algorithm has no critic"}),
    ],
)
def test_a_key_without_effect_is_told(given, told):
    effects = report_effects(parse_ppo_arguments([*PAIRS, *given]), device="cpu", world_size=1)
    assert {effect.key: effect.message for effect in effects} == told


def test_reinforce_plus_plus_normalises_whatever_its_file_says():
    """PaddleNLP's files say normalize_advantage=false and are normalised there all the same."""
    parsed = _of("reinforce_plus_plus", "--normalize_advantage", "false")
    (effect,) = report_effects(parsed, device="cpu", world_size=1)
    assert effect.key == "normalize_advantage" and "always normalised" in effect.message


@pytest.mark.parametrize(("form", "kl_coeff"), [("yaml", 0.0), ("json", 0.02)])
def test_a_file_of_the_reference_suite_for_reinforce_runs_unchanged(form, kl_coeff, tmp_path, monkeypatch):
    """Its keys are those of the grpo file."""
    for name in ("34567ppl/train.jsonl", "5ppl/test.jsonl"):
        (tmp_path / "ppo-kk" / name).parent.mkdir(parents=True)
        (tmp_path / "ppo-kk" / name).write_text("{}\n", encoding="utf-8")
    text = (FIXTURES / f"grpo_argument.{form}").read_text().replace('"grpo"', '"reinforce_plus_plus"')
    (tmp_path / f"a.{form}").write_text(text)
    monkeypatch.chdir(tmp_path)
    parsed = parse_ppo_arguments([f"a.{form}"])
    for world_size in (1, 8):
        refuse_unbuilt(parsed, device="gpu", world_size=world_size)
    assert parsed.on_policy.rl_algorithm == "reinforce_plus_plus"
    assert (parsed.algorithm.kl_coeff, parsed.algorithm.kl_loss_coeff) == (kl_coeff, 0.001)


@pytest.mark.parametrize(("limits", "given"), [
    ({"entropy_coeff": 0.1, "entropy_coeff_max": 0.05}, "0, 0.1, 0.05"),
    ({"entropy_coeff_min": 0.01}, "0.01, 0, 1"),
    ({"entropy_coeff": 0.3, "entropy_coeff_min": 0.5, "entropy_coeff_max": 0.2}, "0.5, 0.3, 0.2"),
])  # fmt: skip
@pytest.mark.parametrize("algorithm", ["ppo", "grpo"])
def test_an_adaptive_entropy_bonus_starts_within_its_limits(algorithm, limits, given):
    changed = {"rl_algorithm": algorithm, "num_return_sequences": 2, **limits}
    keys = {key.removeprefix("--"): value for key, value in zip(GRPO[::2], GRPO[1::2], strict=True)} | changed
    said = f"needs entropy_coeff_min <= entropy_coeff <= entropy_coeff_max, got {given}$"
    with pytest.raises(ArgumentError, match=f"use_adaptive_entropy=true {said}"):
        parse_ppo_arguments({**keys, "use_adaptive_entropy": True})
    parse_ppo_arguments(keys)
