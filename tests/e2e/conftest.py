"""Tiny starting models, made once a session by the trainers themselves."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import runs  # noqa: E402


@pytest.fixture(scope="session")
def model_config(tmp_path_factory):
    """A folder with the config.json of a one-layer Llama."""
    folder = tmp_path_factory.mktemp("config")
    (folder / "config.json").write_text(json.dumps(runs.TINY_MODEL))
    return folder


@pytest.fixture(scope="session")
def sft_folder(tmp_path_factory, model_config):
    """The output folder of a short SFT run."""
    folder = tmp_path_factory.mktemp("sft")
    arguments = {
        **runs.COMMON,
        "model_config_name_or_path": model_config,
        "tokenizer_name_or_path": runs.TOKENIZER,
        "train_datasets": "packing-sft/train:256/-1",
        "eval_datasets": "packing-sft/test:32/-1",
        "evaluation_strategy": "epoch",
        "per_device_train_batch_size": 16,
        "max_steps": 8,
        "output_dir": folder / "out",
    }
    runs.run_ok("sft", arguments, folder)
    return folder / "out"


@pytest.fixture(scope="session")
def rm_folder(tmp_path_factory, sft_folder):
    """The output folder of a short reward-model run."""
    folder = tmp_path_factory.mktemp("rm")
    arguments = {
        **runs.COMMON,
        "model_name_or_path": sft_folder / "policy",
        "train_datasets": "packing-preference/train:128/-1",
        "eval_datasets": "packing-preference/test:32/-1",
        "evaluation_strategy": "epoch",
        "per_device_train_batch_size": 16,
        "max_steps": 8,
        "output_dir": folder / "out",
    }
    runs.run_ok("rm", arguments, folder)
    return folder / "out"


@pytest.fixture(scope="session")
def ppo_arguments(sft_folder, rm_folder):
    """Arguments of a short PPO run, without its output_dir."""
    return {
        **runs.PPO,
        "actor_model_name_or_path": sft_folder / "policy",
        "reward_model_name_or_path": rm_folder / "reward",
    }
