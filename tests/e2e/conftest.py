"""Tiny starting models, made once a session by the trainers themselves."""

from __future__ import annotations

import itertools
import json
import shutil
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
        "model_name_or_path": sft_folder,
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


@pytest.fixture(scope="session")
def sft_arguments(sft_folder):
    """Arguments of a fine-tuning run of two updates, without its output_dir."""
    return {
        **runs.COMMON,
        "model_name_or_path": sft_folder / "policy",
        "train_datasets": "packing-sft/train:64/-1",
        "per_device_train_batch_size": 8,
        "max_steps": 2,
    }


@pytest.fixture(scope="session")
def rm_arguments(sft_arguments):
    """Arguments of a reward-model run of two updates, without its output_dir."""
    return {**sft_arguments, "train_datasets": "packing-preference/train:64/-1"}


@pytest.fixture
def model_variant(sft_folder, tmp_path):
    """Return a function that copies a model folder and sets keys of one of its JSON files (None: takes them away)."""
    numbers = itertools.count()

    def copy(file="config.json", *, source=None, **keys):
        folder = tmp_path / f"model-{next(numbers)}"
        shutil.copytree(source or sft_folder / "policy", folder)
        content = json.loads((folder / file).read_text()) | keys
        (folder / file).write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
        return folder

    return copy


@pytest.fixture(scope="session")
def other_tokenizer(tmp_path_factory):
    """A tokenizer with the shipped one's words under other ids, and two words more."""
    folder = tmp_path_factory.mktemp("other") / "tokenizer"
    shutil.copytree(runs.TOKENIZER, folder)
    content = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    special = {token["content"] for token in content["added_tokens"]}
    words = sorted(set(vocabulary) - special, reverse=True)
    ids = sorted(vocabulary[word] for word in words)
    vocabulary.update(dict(zip(words, ids, strict=True)) | {"sock": len(vocabulary), "soap": len(vocabulary) + 1})
    (folder / "tokenizer.json").write_text(json.dumps(content))
    return folder
