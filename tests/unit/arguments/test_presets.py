"""What a preset sets, what wins over it, and what it refuses."""

from __future__ import annotations

import json

import pytest

from alignment.algorithms.on_policy.registered import ALGORITHMS
from alignment.arguments.effects import report_effects
from alignment.arguments.global_batches import share_global_batches
from alignment.arguments.groups import declare
from alignment.arguments.peers.presets import PRESETS, describe
from alignment.errors import ArgumentError
from alignment.runs.on_policy.prompts import RowPlan
from alignment.trainers.ppo.arguments import GROUPS, parse_ppo_arguments

FILE = {"train_datasets": "p", "actor_model_name_or_path": "a", "reward_model_name_or_path": "r", "output_dir": "o"}
CASES = [(preset, algorithm) for preset in PRESETS for algorithm in PRESETS[preset]]


def _parse(preset, **given):
    return parse_ppo_arguments({**FILE, "preset": preset, **given})


def _problems(preset, **given):
    with pytest.raises(ArgumentError) as error:
        _parse(preset, **given)
    return str(error.value).split("\n  ")[1:]


@pytest.mark.parametrize(("preset", "algorithm"), CASES)
def test_every_value_of_a_preset_arrives_and_is_of_its_keys_type(preset, algorithm):
    settings = PRESETS[preset][algorithm]
    samples = {} if "num_return_sequences" in settings or algorithm == "ppo" else {"num_return_sequences": 2}
    parsed = _parse(preset, rl_algorithm=algorithm, **samples)
    values = parsed.as_dict()
    assert {key: values[key] for key in settings} == {key: setting.value for key, setting in settings.items()}
    assert {parsed.origins[key] for key in settings} == {f"preset {preset}"}
    assert not any(parsed.given(key) for key in settings)
    # Written into a file, the same values are read, so they are of the type and in the range of their keys.
    written = {key: setting.value for key, setting in settings.items()}
    again = parse_ppo_arguments({**FILE, "rl_algorithm": algorithm, **samples, **written}).as_dict()
    assert {**again, "preset": preset} == values


@pytest.mark.parametrize(("preset", "algorithm"), CASES)
def test_equal_prompts_are_left_in_where_the_suite_leaves_them_in(preset, algorithm):
    parsed = _parse(preset, rl_algorithm=algorithm, num_return_sequences=2)
    removes = {"paddlenlp": True, "safe-rlhf": True, "trl": False, "openrlhf": False, "verl": False}
    assert parsed.on_policy.remove_same_inputs == removes.get(preset, True)
    assert _parse(preset, rl_algorithm=algorithm, num_return_sequences=2, remove_same_inputs=True)


def test_a_key_that_is_given_wins_over_a_default_and_is_said():
    parsed = _parse("trl", kl_coeff=0.1, learning_rate=1e-5)
    assert (parsed.algorithm.kl_coeff, parsed.on_policy.update_iters, parsed.generation.temperature) == (0.1, 4, 0.7)
    assert parsed.critic.critic_learning_rate is None, "TRL has one learning rate for both models"
    said = describe(parsed)
    assert said.startswith("preset=trl sets clip_range_ratio=0.2, dual_clip=null, update_iters=4, ")
    assert "; given instead: kl_coeff=0.1 (trl: 0.05), learning_rate=1e-05 (trl: 3e-06). TRL's PPO whitens" in said
    assert describe(_parse(None)) is None


def test_a_value_of_a_preset_without_effect_is_no_warning():
    parsed = _parse("verl", num_return_sequences=1)
    assert [effect.key for effect in report_effects(parsed, device="cpu", world_size=1)] == []


@pytest.mark.parametrize(
    ("preset", "key", "value", "right", "why"),
    [
        ("safe-rlhf", "clip_placement", "score", "token", "the sum of score and KL of each token is clipped"),
        (
            "safe-rlhf",
            "policy_loss_reduction",
            "token",
            "sequence",
            "losses are means over responses of means",
        ),
        ("openrlhf", "advantage_variance", "unbiased", "biased", "advantages are whitened with the biased variance"),
        ("openrlhf", "kl_limit", "null", "10.0", "a token's KL is limited to +-10"),
        ("trl", "clip_range_score", 5, "null", "scores are not clipped"),
        ("verl", "normalize_advantage", False, "true", "advantages are whitened with the unbiased variance"),
    ],
)
def test_a_key_against_a_convention_is_refused_with_the_values_that_work(preset, key, value, right, why):
    (said,) = _problems(preset, **{key: value})
    assert f" contradicts preset={preset}, in which {why}" in said and said.startswith(f"{key}=")
    assert f": give {key}={right} or leave it out, or leave out preset" in said
    assert _parse(preset, **{key: right}).on_policy.preset == preset


def test_a_preset_without_the_algorithm_is_refused():
    (said,) = _problems("safe-rlhf", rl_algorithm="grpo", num_return_sequences=2)
    assert said == (
        "preset=safe-rlhf has no values for rl_algorithm=grpo, only for ppo (presets with grpo: paddlenlp, trl, verl, "
        "recommended)"
    )
    assert "expected one of 'paddlenlp', 'trl', 'openrlhf', 'verl', 'safe-rlhf', 'recommended'" in _problems("trlx")[0]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, (1024, 128)),
        ({"per_device_prompt_batch_size": 8}, (-1, -1)),
        ({"gradient_accumulation_steps": 2}, (-1, -1)),
        ({"global_batch_size": 64}, (64, -1)),
        ({"num_return_sequences": 2}, (-1, -1)),
    ],
)
def test_batch_sizes_of_a_preset_yield_to_any_that_is_given(given, expected):
    on_policy = _parse("openrlhf", **given).on_policy
    assert (on_policy.global_batch_size, on_policy.global_mini_batch_size) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"num_return_sequences": 1}, (1024, 256)),
        ({"num_return_sequences": 8}, (1024, 256)),
        ({"rl_algorithm": "grpo", "num_return_sequences": 8}, (1024, 256)),
        ({"rl_algorithm": "grpo", "num_return_sequences": 8, "per_device_prompt_batch_size": 4}, (-1, -1)),
    ],
)
def test_verls_batch_sizes_count_prompts_whatever_the_number_of_responses(given, expected):
    on_policy = _parse("verl", **given).on_policy
    assert (on_policy.global_batch_size, on_policy.global_mini_batch_size) == expected


@pytest.mark.parametrize(
    ("given", "prompts", "rows", "critic"),
    [
        ({}, 32, 64, 3e-3),
        ({"num_return_sequences": 1}, 32, 64, 3e-3),
        ({"learning_rate": 1e-5}, 32, 64, None),
        ({"per_device_prompt_batch_size": 4}, 4, 8, 3e-3),
        ({"global_batch_size": -1, "global_mini_batch_size": -1}, 32, 64, 3e-3),
        ({"rl_algorithm": "rloo"}, 32, 64, None),
        ({"rl_algorithm": "grpo", "gradient_accumulation_steps": 2}, 16, 8, None),
    ],
)
def test_what_is_recommended_yields_to_batch_sizes_and_to_one_learning_rate_for_both_models(
    given, prompts, rows, critic
):
    parsed = _parse("recommended", **given)
    on_policy, training = parsed.on_policy, parsed.training
    assert (on_policy.per_device_prompt_batch_size, training.per_device_train_batch_size) == (prompts, rows)
    assert parsed.as_dict().get("critic_learning_rate") == critic
    expected = 2e-3 if given.get("rl_algorithm") == "grpo" else 3e-3
    assert training.learning_rate == given.get("learning_rate", expected)
    assert on_policy.num_return_sequences == given.get("num_return_sequences", 4)
    loss, algorithm = ("kl_loss_coeff" if given.get("rl_algorithm") == "grpo" else "kl_coeff"), parsed.algorithm
    assert (getattr(algorithm, loss), on_policy.update_iters) == (0.3, 2 if given.get("rl_algorithm") == "rloo" else 1)
    assert training.warmup_ratio == 0.1, "without it PPO's first updates cost greedy answers (docs/how-to/presets.md)"


def test_batch_sizes_that_yield_are_said_and_global_ones_keep_those_recommended():
    said = describe(_parse("recommended", global_batch_size=64))
    left_out = "per_device_train_batch_size=64, per_device_prompt_batch_size=32"
    assert f"; not set beside global_batch_size: {left_out}. Found with" in said and said.count(left_out) == 1
    assert "not set beside" not in describe(_parse("recommended", kl_coeff=0.1))
    assert "global_batch_size=32 and global_mini_batch_size=16 keep" in said
    for ranks in (1, 2, 4):
        given = _parse("recommended", global_batch_size=32, global_mini_batch_size=16)
        plan = RowPlan.of(share_global_batches(given, batch_ranks=ranks), batch_ranks=ranks)
        assert (plan.prompts_per_iteration, plan.samples_per_prompt, plan.rows_per_update) == (32, 4, 64)


def test_a_batch_that_does_not_divide_names_what_the_preset_set():
    (said,) = _problems("recommended", num_return_sequences=3)
    by_preset = "per_device_prompt_batch_size=32, per_device_train_batch_size=64"
    assert "= 32 * 3 = 96 rows per rollout" in said and said.endswith(f"(preset=recommended set {by_preset})")


@pytest.mark.parametrize(
    ("algorithm", "is_white"),
    [
        *(("rloo", False), ("remax", False), ("opo", False)),
        *(("reinforce_plus_plus", True), ("reinforce_plus_plus_baseline", True)),
    ],
)
def test_verls_algorithms_without_a_critic_whiten_as_verl_does(algorithm, is_white):
    samples = {"num_return_sequences": 1 if algorithm in ("remax", "reinforce_plus_plus") else 4}
    parsed = _parse("verl", rl_algorithm=algorithm, **samples)
    numbers = parsed.algorithm
    assert (numbers.normalize_advantage, numbers.dual_clip) == (is_white, 3.0)
    assert (numbers.kl_coeff, numbers.kl_loss_coeff) == (0.0, 0.0)
    assert (parsed.on_policy.global_batch_size, parsed.training.learning_rate) == (1024, 1e-6)
    (said,) = _problems("verl", rl_algorithm=algorithm, normalize_advantage=not is_white, **samples)
    assert f"contradicts preset=verl, in which advantages are {'' if is_white else 'not '}whitened" in said


@pytest.mark.parametrize(("algorithm", "limit"), [("ppo", 50.0), ("grpo", 10.0)])
def test_the_range_of_scores_of_paddlenlp_names_its_source(algorithm, limit):
    parsed = _parse("paddlenlp", rl_algorithm=algorithm, num_return_sequences=2)
    assert parsed.algorithm.clip_range_score == limit
    assert "clip_range_score of 50 is that of its ppo_argument.json; its own default became 10" in describe(parsed)


def test_openrlhfs_length_counts_prompt_and_response():
    data = _parse("openrlhf").data
    assert (data.max_length, data.max_prompt_len) == (2048, None)
    assert "max_length=2048" in describe(_parse("openrlhf"))


def test_help_shows_every_key_of_every_preset(capsys):
    with pytest.raises(SystemExit):
        parse_ppo_arguments(["--help", "preset"])
    text = " ".join(capsys.readouterr().out.split())
    for preset, algorithm in CASES:
        assert f"preset={preset}, rl_algorithm={algorithm}: " in text
    assert "kl_limit=10.0*" in text and "clip_range_score=null*" in text and "dual_clip=3.0 " in text


def test_a_file_says_its_preset_as_any_other_key(tmp_path):
    (tmp_path / "ppo.json").write_text(json.dumps({**FILE, "preset": "openrlhf"}))
    parsed = parse_ppo_arguments([str(tmp_path / "ppo.json"), "--gae_lambda", "0.95"])
    assert (parsed.algorithm.gae_lambda, parsed.algorithm.clip_range_value) == (0.95, 0.5)


def test_the_keys_of_presets_are_keys():
    names = {slot.name for slot in declare(GROUPS)}
    assert {key for preset, algorithm in CASES for key in PRESETS[preset][algorithm]} <= names


@pytest.mark.parametrize(
    ("given", "weight", "estimator"),
    [({}, 0.01, "k1"), ({"kl_loss_coeff": 0.2}, 0.2, "k1"), ({"kl_estimator": "k3"}, 0.01, "k3"),
     ({"kl_loss_estimator": "k2"}, 0.01, "k2"), ({"kl_coeff": 0}, 0.01, "k1")],
)  # fmt: skip
def test_use_kl_loss_moves_openrlhfs_kl_from_the_reward_into_the_loss(given, weight, estimator):
    parsed = _parse("openrlhf", use_kl_loss=True, **given)
    numbers = parsed.algorithm
    assert (numbers.kl_coeff, numbers.kl_loss_weight, numbers.kl_loss_estimator) == (0.0, weight, estimator)
    assert "kl_coeff=0.01" not in describe(parsed)
    plain = _parse("openrlhf", use_kl_loss=False).algorithm
    assert (plain.kl_coeff, plain.kl_loss_weight) == (0.01, 0.0)
    assert _parse("paddlenlp", use_kl_loss=True).algorithm.kl_coeff == 0.02, "only OpenRLHF's switch moves it"


def test_a_kl_in_the_reward_beside_openrlhfs_kl_loss_is_refused():
    (said,) = _problems("openrlhf", use_kl_loss=True, kl_coeff=0.05)
    assert said.startswith(
        "kl_coeff=0.05 contradicts preset=openrlhf, in which use_kl_loss moves the KL from the reward into the loss "
        "(kl_loss_coeff): give kl_coeff=0.0 or leave it out"
    )


@pytest.mark.parametrize("algorithm", [name for name in ALGORITHMS if not ALGORITHMS[name].needs_critic])
def test_without_a_critic_the_weight_is_the_switch_of_the_kl_in_the_loss(algorithm):
    samples = {"rl_algorithm": algorithm, "num_return_sequences": 2}
    (said,) = _problems(None, use_kl_loss=True, **samples)
    assert (
        said.startswith("use_kl_loss belongs to rl_algorithm=ppo") and f"this run has rl_algorithm={algorithm}" in said
    )
    assert said.endswith(": give kl_loss_coeff, the weight of the KL in the loss (0: none)")
    (said,) = _problems(None, kl_loss_coeff=-1, **samples)
    assert said.startswith("kl_loss_coeff: expected a value >= 0, got -1")
