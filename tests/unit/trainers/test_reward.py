"""Arguments of reward models that do not fit together: one message before any process starts."""

from __future__ import annotations

import pytest

from alignment.arguments.effects import report_effects
from alignment.errors import ArgumentError
from alignment.trainers.reward.arguments import parse_reward_arguments

GIVEN = {"train_datasets": "a", "model_name_or_path": "config/tiny/model", "output_dir": "out"}
REGRESSION = {"objective": "regression", "attributes": ["a", "b"]}


def parse(**keys):
    return parse_reward_arguments({**GIVEN, **keys})


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"objective": "regression"}, "objective=regression needs attributes"),
        ({**REGRESSION, "attributes": ["a", "b", "a"]}, "attributes names 'a' more than once"),
        ({**REGRESSION, "num_labels": 3}, r"num_labels=3, but 2 attributes are named \(allowed: 2\)"),
        ({"num_labels": 2}, r"num_labels=2, but objective=reward has one score \(allowed: 1\)"),
    ],
)
def test_attributes_and_labels_agree(keys, message):
    with pytest.raises(ArgumentError, match=message):
        parse(**keys)


def test_keys_of_pairs_have_no_effect_on_a_regression_and_are_told():
    keys = {"loss_type": "token-wise", "margin_loss": True, "center_rewards_coefficient": 0.1, "regularization": 0.1}
    parsed = parse(**REGRESSION, **keys, normalize_score_during_training=True, num_labels=2)
    told = {effect.key for effect in report_effects(parsed, device="cpu", world_size=1)}
    assert told >= {*keys, "normalize_score_during_training"} and "attributes" not in told
    told = {effect.key for effect in report_effects(parse(attributes=["a"]), device="cpu", world_size=1)}
    assert "attributes" in told


def test_the_names_of_other_suites_losses():
    """OpenRLHF's --loss sigmoid; sheeprlhf's and DeepSpeed-Chat's per_sample is token-wise."""
    names = {"sigmoid": "sequence-wise", "last_token": "sequence-wise", "per_sample": "token-wise", "logexp": "logexp"}
    assert {name: parse(loss=name).loss.loss_type for name in names} == names
