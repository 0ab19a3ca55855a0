"""The reference is complete and says what the fields say."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections import Counter

import pytest

from alignment.algorithms.on_policy.registered import ALGORITHMS
from alignment.arguments.groups import options
from alignment.arguments.reference import describe_fields
from alignment.commands.keys import key_reference
from alignment.fields import constraint_of
from alignment.trainers.objectives import OBJECTIVES, REWARD
from alignment.trainers.registered import TRAINERS

CLASSES = sorted(
    {option.cls for name in TRAINERS for option in options(TRAINERS[name].groups)},
    key=lambda c: c.__name__,
)


@pytest.mark.parametrize("cls", CLASSES)
def test_every_field_has_a_meaning_below_it(cls):
    docs = describe_fields(cls)
    for item in dataclasses.fields(cls):
        assert docs[item.name].endswith("."), item.name
        assert docs[item.name].isascii()


def _of_several_algorithms():
    """Keys that on-policy algorithms declare differently, or that those with a critic have among its keys."""
    classes = dict.fromkeys(ALGORITHMS[name].hyperparameters for name in ALGORITHMS)
    told = [(item, describe_fields(cls)[item.name]) for cls in classes for item in dataclasses.fields(cls)]
    kinds = {(item.name, item.default, repr(constraint_of(item)), text) for item, text in told}
    counts = Counter(kind[0] for kind in kinds)
    return {name for name, count in counts.items() if count > 1} | {
        "per_device_value_batch_size",
        "freezing_actor_steps",
    }


def _loss_keys():
    """Keys of the losses of offline objectives, each of which declares its own."""
    losses = {OBJECTIVES[name].hyperparameters for name in OBJECTIVES} | {REWARD.hyperparameters}
    return [item.name for cls in losses if cls is not None for item in dataclasses.fields(cls)]


def test_every_key_has_one_row_and_all_cells():
    lines = [line for line in key_reference().splitlines() if line.startswith("| `")]
    keys = [line.split("`")[1] for line in lines]
    shared = {"train_datasets", "eval_datasets", "model_name_or_path", "model_config_name_or_path", "value_head_prefix"}
    shared |= {"temperature", "max_dec_len"}  # of sampling, and of distillation
    shared |= {key for key, count in Counter(_loss_keys()).items() if count > 1}
    repeated = {key for key in keys if keys.count(key) > 1}
    assert repeated == shared | _of_several_algorithms()
    assert {item.name for cls in CLASSES for item in dataclasses.fields(cls)} == set(keys)
    assert all(line.replace("\\|", "").count("|") == 5 for line in lines)


def test_rows_show_type_range_default_and_meaning():
    text = key_reference()
    assert "| `gae_lambda` | number >= 0 and <= 1 | `0.95` |" in text
    assert "| `output_dir` | text | required |" in text
    assert "Also written `critic_model_name_or_path`." in text
    assert "Any other value is refused: adamw is the only optimizer built." in text


def test_the_command_prints_it():
    done = subprocess.run([sys.executable, "-m", "alignment", "keys"], capture_output=True, text=True, check=True)
    assert done.stdout == key_reference()
