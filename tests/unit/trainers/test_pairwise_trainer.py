"""Short runs of the pairwise trainer: how they resume, and what an adapter on the model leaves behind."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file

from alignment.arguments.rewards.entries import model_kind
from alignment.commands import merge
from alignment.errors import UserError
from alignment.models.adapters.peft_config import CONFIG_FILE
from alignment.models.config import read_config
from tests.contract.keys.assembled import BASE, filled, make_models
from tests.tiny_runs import train_tiny

LORA = {"lora": True, "lora_rank": 2, "lora_dropout": 0.1}
FORMS = {"whole": {}, "LoRA": LORA, "QLoRA": {**LORA, "load_in_4bit": True}}
ROWS = {"train_datasets": "packing-preference/train:24/-1", "eval_datasets": "packing-preference/test:8/-1"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Holds ``policy``, which the runs start from."""
    place = tmp_path_factory.mktemp("trainer")
    make_models(place)
    return place


def train(folder, name, **keys):
    """Make 6 updates; return their metrics."""
    base = {key: filled(value, folder) for key, value in BASE["pairwise"].items()}
    return train_tiny("pairwise", folder, name, **{**base, **ROWS, **keys})


@pytest.mark.parametrize("form", FORMS)
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(folder, form):
    keys = {"evaluation_strategy": "epoch", **FORMS[form], "save_strategy": "steps", "save_steps": 3}
    whole = train(folder, f"whole-{form}", **keys)
    shutil.copytree(folder / f"whole-{form}" / "checkpoint-3", folder / f"half-{form}" / "checkpoint-3")
    rest = train(folder, f"half-{form}", **keys, resume_from_checkpoint=True)
    assert rest == whole[-len(rest) :] and rest[0]["step"] == 4
    first, second = ({p.name: p.read_bytes() for p in sorted((folder / f"{part}-{form}" / "reward").iterdir())}
                     for part in ("half", "whole"))  # fmt: skip
    assert first == second and any(name.endswith(".safetensors") for name in first)
    readiness = [json.loads((folder / f"{part}-{form}" / "readiness.json").read_text()) for part in ("half", "whole")]
    assert readiness[0] == readiness[1]


def test_an_adapter_leaves_the_base_as_it_is_and_merges_to_a_model_that_compares(folder):
    train(folder, "adapted", **LORA)
    adapter = folder / "adapted" / "reward"
    assert (adapter / CONFIG_FILE).is_file()
    factors = load_file(adapter / "adapter_model.safetensors")
    assert factors and all(".lora_" in name for name in factors)
    assert any(np.abs(value).max() > 0 for name, value in factors.items() if "lora_B" in name), "it has learned"
    assert model_kind(str(folder / "adapted")) == "model", "an adapter is no model yet"
    merge.main([str(folder / "adapted"), str(folder / "merged")])
    asked = BASE["pairwise"]
    record = {"template": asked["pairwise_template"], "turn": asked["pairwise_turn"]}
    record["letters"] = asked["pairwise_letters"].split()
    assert read_config(folder / "merged").comparison == record
    assert model_kind(str(folder / "merged")) == "pairwise"
    judged = {
        "actor_model_name_or_path": str(folder / "policy"), "reward_model_name_or_path": str(folder / "merged"),
        "rl_algorithm": "grpo", "num_return_sequences": 2, "max_steps": 2,
    }  # fmt: skip
    [record] = train_tiny("ppo", folder, "judged", **judged)
    assert record["train/reward"] == pytest.approx(0.5, abs=1e-6)
    with pytest.raises(UserError, match="adapter"):
        train_tiny("ppo", folder, "early", **{**judged, "reward_model_name_or_path": str(folder / "adapted")})
