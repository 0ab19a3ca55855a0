"""Models that an argument file names are looked for beside it."""

from __future__ import annotations

import json

import pytest

from alignment.trainers.ppo.arguments import parse_ppo_arguments
from alignment.trainers.registered import TRAINERS
from alignment.trainers.reward.arguments import parse_reward_arguments

PPO = {"actor_model_name_or_path": "model", "reward_model_name_or_path": "model"}
RANDOM = {"tokenizer_name_or_path": "model"}
CASES = [
    (TRAINERS["sft"].parse, "model_name_or_path", {}),
    (TRAINERS["sft"].parse, "model_config_name_or_path", RANDOM),
    (parse_reward_arguments, "model_name_or_path", {}),
    (parse_reward_arguments, "model_config_name_or_path", RANDOM),
    *((parse_ppo_arguments, key, PPO) for key in (*PPO, "reward_critic_model_name_or_path", "tokenizer_name_or_path")),
]


@pytest.mark.parametrize(("parse", "key", "others"), CASES)
def test_a_relative_path_is_taken_beside_the_file(parse, key, others, tmp_path):
    (tmp_path / "model").mkdir()
    path = tmp_path / "arguments.json"
    path.write_text(json.dumps({"train_datasets": "p", "output_dir": "o", **others, key: "model"}))
    assert parse([str(path)]).as_dict()[key] == str(tmp_path / "model")
