"""Whose argument file it is: keys first, then the file's name, and a refusal where neither tells."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from alignment.errors import ArgumentError
from alignment.trainers.recognise import recognise_trainer
from alignment.trainers.registered import TRAINERS

ROOT = Path(__file__).resolve().parents[3]
COMMON = ("train_datasets", "model_name_or_path", "learning_rate")


@pytest.mark.parametrize("path", sorted(ROOT.glob("config/*/*_argument.json")), ids=lambda path: path.stem)
def test_every_shipped_file_is_its_trainers(path):
    keys = json.loads(path.read_text(encoding="utf-8"))
    expected = "ppo" if "actor_model_name_or_path" in keys else path.stem.partition("_")[0]
    assert recognise_trainer(keys, path) == expected


@pytest.mark.parametrize(
    ("keys", "name", "trainer"),
    [
        (COMMON, "sft.json", "sft"),
        (COMMON, "my_rm-run.json", "rm"),
        (COMMON, "dpo_argument.yaml", "dpo"),
        ((*COMMON, "beta", "sft_loss_ratio"), "a.json", "dpo"),
        ((*COMMON, "beta", "sft_loss_ratio"), "sft.json", "dpo"),
        ((*COMMON, "beta"), "kto_argument.json", "kto"),
        ((*COMMON, "beta", "desirable_weight"), "dpo.json", "kto"),
        ((*COMMON, "score_bias"), "a.json", "rm"),
        ((*COMMON, "teacher_model"), "sft.json", "kd"),
        ((*COMMON, "teacher_model_name_or_path", "beta"), "a.json", "kd"),
        (("actor_model_name_or_path",), "sft.json", "ppo"),
        (("model_config_name_or_path", "sft_loss_ratio"), "a.json", "dpo"),
    ],
)
def test_keys_decide_before_the_name(keys, name, trainer):
    assert recognise_trainer(keys, Path(name)) == trainer


@pytest.mark.parametrize("name", ["a.json", "sft_or_dpo.json"])
def test_what_neither_keys_nor_name_tell_is_refused_with_the_choices(name):
    with pytest.raises(ArgumentError, match=rf"{name}: .*add --trainer NAME \(allowed: sft, rm, pairwise, dpo, kto\)"):
        recognise_trainer(COMMON, Path(name))


def test_the_models_of_a_trainer_are_its_keys():
    assert TRAINERS["ppo"].model_keys == {"actor_model_name_or_path", "reward_model_name_or_path"}
    assert TRAINERS["sft"].model_keys == {"model_name_or_path"}


def test_an_on_policy_file_is_recognised_without_paddle():
    code = (
        "import sys; sys.modules['paddle'] = None\nfrom pathlib import Path\n"
        "from alignment.trainers.recognise import recognise_trainer\n"
        "print(recognise_trainer(['actor_model_name_or_path'], Path('grpo.json')))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "ppo\n"
