"""The length that policy_loss_reduction=constant divides by is the longest that a response may be."""

import pytest

from alignment.runs.on_policy.algorithm import ChosenAlgorithm
from alignment.trainers.ppo.arguments import parse_ppo_arguments

ARGUMENTS = {"train_datasets": "p", "actor_model_name_or_path": "a", "reward_model_name_or_path": "r",
             "output_dir": "o", "policy_loss_reduction": "constant"}  # fmt: skip


@pytest.mark.parametrize(
    ("keys", "length"),
    [({"max_length": 64, "max_dec_len": 24}, 24), ({"max_length": 64}, 63), ({"max_length": 64, "loss_length": 7}, 7)],
)
def test_the_length_of_the_constant_mean(keys, length):
    chosen = ChosenAlgorithm.of(parse_ppo_arguments({**ARGUMENTS, **keys}))
    assert chosen.hyperparameters.loss_length == length
