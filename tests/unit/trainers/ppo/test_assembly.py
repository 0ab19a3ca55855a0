"""How PPO's arguments become plans, functions and the critic's own settings."""

from types import SimpleNamespace

import pytest

from alignment.data.loader import ContinuousLoader
from alignment.errors import UserError
from alignment.models.decoder.score_model import ScoreOptions
from alignment.parallel.micro_batches import MicroBatches
from alignment.rollout.rewards.user_code import load_function
from alignment.runs.assembly import Horizon
from alignment.runs.on_policy.algorithm import critic_training
from alignment.runs.on_policy.prompts import RowPlan
from alignment.runs.on_policy.rewards import build_normalizer
from alignment.runs.on_policy.run import positive_or
from alignment.trainers.ppo.arguments import parse_ppo_arguments

REWARD = """
from __future__ import annotations
from dataclasses import dataclass

@dataclass
class Weight:
    value: float

def score(prompts, responses, labels):
    return [Weight(2.0).value] * len(responses)
"""


def _parse(tmp_path, **keys):
    keys = {
        "train_datasets": "packing-prompts/train",
        "actor_model_name_or_path": tmp_path,
        "reward_model_name_or_path": tmp_path,
        "output_dir": tmp_path / "out",
        **keys,
    }
    return parse_ppo_arguments([part for key, value in keys.items() for part in (f"--{key}", str(value))])


@pytest.mark.parametrize("name", ["my_reward:score", "my_reward.py:score"])
def test_a_reward_function_is_found_beside_the_arguments(tmp_path, name):
    (tmp_path / "my_reward.py").write_text(REWARD)
    assert load_function(name, tmp_path)(["p"], ["r"], [None]) == [2.0]


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("raise KeyError('x')", "broken.py:score", r"reward_function='broken.py:score'.*KeyError.*line 1"),
        ("a = (", "half.py:score", "SyntaxError"),
        ("score = 3\ndef scor(p, r, l): ...", "number.py:score", r"no function 'score' \(it has scor\)"),
        ("", "no_such_module:score", "no module 'no_such_module'"),
    ],
)
def test_what_is_wrong_with_a_reward_function_is_said(tmp_path, text, name, message):
    (tmp_path / name.partition(":")[0]).write_text(text)
    with pytest.raises(UserError, match=message):
        load_function(name, tmp_path)


def test_only_evaluating_needs_evaluation_data_whatever_the_strategy(tmp_path):
    parsed = _parse(tmp_path, do_train="false", eval_datasets="packing-prompts/test")
    assert parsed.training.evaluates
    assert not _parse(tmp_path).training.evaluates


def test_the_critic_has_its_own_settings_where_given(tmp_path):
    parsed = _parse(tmp_path, learning_rate=1e-5, weight_decay=0.1, critic_learning_rate=5e-6, critic_weight_decay=0)
    critic = critic_training(parsed)
    assert (critic.learning_rate, critic.weight_decay, critic.warmup_ratio) == (5e-6, 0, parsed.training.warmup_ratio)
    assert (parsed.training.learning_rate, parsed.training.weight_decay) == (1e-5, 0.1)


@pytest.mark.parametrize(
    ("sizes", "num_prompts", "expected"),
    [
        ((4, 2, 4, 1, 2), 12, 12.0),
        ((4, 2, 4, 2, 1), 10, 2.5),
        ((2, 1, 2, 4, 1), 16, 2.0),
        ((2, 1, 2, 4, 1), 17, 2.125),
        ((4, 2, 4, 1, 1), 3, 1.5),
    ],
)
def test_updates_of_an_epoch(tmp_path, sizes, num_prompts, expected):
    prompts, samples, micro, steps, iters = sizes
    parsed = _parse(
        tmp_path,
        per_device_prompt_batch_size=prompts,
        num_return_sequences=samples,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=steps,
        update_iters=iters,
    )
    plan = RowPlan.of(parsed)
    loader = ContinuousLoader(list(range(num_prompts)), batch_size=plan.prompts_per_iteration, seed=0)
    assert plan.updates_per_epoch(loader) == expected
    horizon = Horizon.of(
        parsed.training, plan.updates_per_epoch(loader), "data", updates_at_once=plan.updates_per_rollout
    )
    by_hand = 0
    for batch in loader.iterate(1):
        assert len(batch) == plan.prompts_per_iteration, "every rollout is full"
        by_hand += iters * len(range(0, len(batch) * samples, plan.rows_per_update))
    assert by_hand == horizon.total_updates


class _RewardModel:
    """What PPO asks of a reward model when it decides on normalisation."""

    def __init__(self, *, asks, has_statistics=True):
        self.options = ScoreOptions(do_normalize=asks)
        self.has_statistics = has_statistics

    def normalize_scores(self, scores):
        return (scores - 3) / 2


@pytest.mark.parametrize(("asks", "wanted", "expected"), [(True, False, 2.0), (False, False, None), (False, True, 2.0)])
def test_a_reward_model_that_normalises_its_scores_does_so_in_ppo(tmp_path, asks, wanted, expected):
    start = SimpleNamespace(parsed=_parse(tmp_path, normalize_reward=wanted))
    roles = SimpleNamespace(reward=SimpleNamespace(scoring=_RewardModel(asks=asks)))
    normalize, part = build_normalizer(start, roles, None)
    assert (None if normalize is None else normalize(7.0)) == expected
    assert part is None


def test_the_first_line_of_a_run_says_how_rows_are_grouped():
    plan = RowPlan(
        prompts_per_iteration=6,
        samples_per_prompt=4,
        rows_per_update=8,
        micro_batches=MicroBatches(rows=2),
        update_iters=3,
    )
    assert plan.describe(Horizon(total_updates=18, updates_per_epoch=9)) == (
        "18 updates (9 per epoch); each rollout is 6 prompts x 4 = 24 responses, 8 per update, 2 per micro-batch, "
        "3 passes"
    )


@pytest.mark.parametrize(
    ("given", "total", "said"),
    [
        ({"eval_steps": 11}, 36, "; at the end of a rollout (12 updates) come evaluations (eval_steps=11) after update "
         "12, 24, 36"),
        ({"eval_steps": 7}, 30, "; at the end of a rollout (12 updates) come evaluations (eval_steps=7) after update "
         "12, 24, 30"),
        ({"logging_steps": 11}, 50, "; at the end of a rollout (12 updates) come evaluations (logging_steps=11) after "
         "update 12, 24, 36, ..."),
        ({"eval_steps": 24, "save_steps": 10}, 24, "; at the end of a rollout (12 updates) come checkpoints "
         "(save_steps=10) after update 12, 24"),
        ({"eval_steps": 12}, 36, ""),
        ({"eval_steps": 11}, 9, ""),
        ({"eval_steps": 11, "evaluation_strategy": "epoch"}, 36, ""),
    ],
)  # fmt: skip
def test_intervals_that_end_within_a_rollout_are_told_with_when_they_come(given, total, said, tmp_path):
    plan = RowPlan(
        prompts_per_iteration=12,
        samples_per_prompt=2,
        rows_per_update=4,
        micro_batches=MicroBatches(rows=4),
        update_iters=2,
    )
    training = _parse(tmp_path, **{"evaluation_strategy": "steps", "eval_datasets": "e", **given}).training
    horizon = Horizon(total_updates=total, updates_per_epoch=9)
    assert plan.describe_rounding(training, horizon, target_kl=None) == said
    unless = " (if target_kl ends no rollout's updates early)" if said else ""
    assert plan.describe_rounding(training, horizon, target_kl=0.1) == said + unless


def test_minus_one_means_the_size_of_a_micro_batch():
    assert [positive_or(size, 8) for size in (-1, 1, 3)] == [8, 1, 3]
