"""What a run reads and never changes is known by its content, and a resumed run that finds another is refused."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from alignment.data.sources.packing import TOKENIZER
from alignment.errors import CheckpointError
from alignment.models.tokenizer.tokenizer import load_tokenizer
from alignment.parallel.comms.group import ALONE
from alignment.rollout.rewards.user_code import load_function
from alignment.runs.frozen import FROZEN, FrozenInput, frozen_function, frozen_model, frozen_part, frozen_tokenizer

CHECKPOINT = Path("out/checkpoint-4")


def launch(state=None):
    """A run that starts afresh, or from a checkpoint with ``state``."""
    checkpoint = None if state is None else SimpleNamespace(folder=CHECKPOINT, state=state, models=["policy", "value"])
    return SimpleNamespace(checkpoint=checkpoint)


@pytest.fixture
def folder(tmp_path):
    """A model folder with another file."""
    for name in ("config.json", "model.safetensors", "tokenizer.json", "README.md"):
        (tmp_path / name).write_text(name)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "counts"),
    [("config.json", True), ("model.safetensors", True), ("pytorch_model.bin", True),
     ("model_state.tp00.pdparams", True), ("README.md", False), ("tokenizer.json", False), ("run.log", False)],
)  # fmt: skip
def test_a_model_is_its_configuration_and_its_weights(folder, name, counts):
    before = frozen_model("the reference", str(folder), ALONE)
    (folder / name).write_text("changed")
    after = frozen_model("the reference", str(folder), ALONE)
    assert (before != after) == counts and before[:2] == after[:2] == ("the reference", str(folder))


def test_a_configuration_alone_is_a_file(folder):
    before = frozen_model("the reference", str(folder / "config.json"), ALONE)
    (folder / "model.safetensors").write_text("changed")
    assert frozen_model("the reference", str(folder / "config.json"), ALONE) == before
    (folder / "config.json").write_text("changed")
    assert frozen_model("the reference", str(folder / "config.json"), ALONE) != before


def test_a_tokenizer_is_what_its_ids_mean_and_its_template():
    tokenizer = load_tokenizer(TOKENIZER)
    assert frozen_tokenizer("a", tokenizer).content == frozen_tokenizer("b", load_tokenizer(TOKENIZER)).content
    other = tokenizer.with_chat_template("{{ messages[0].content }}")
    assert frozen_tokenizer("a", other).content != frozen_tokenizer("a", tokenizer).content


REWARD = FrozenInput("the reward model", "rm/reward", "abc")


def test_what_changed_is_refused_by_name_and_place():
    frozen_part(launch({FROZEN: {"the reward model": "abc"}}), [REWARD])
    with pytest.raises(CheckpointError) as raised:
        frozen_part(launch({FROZEN: {"the reward model": "xyz", "the tokenizer": "1"}}), [REWARD])
    assert str(raised.value) == (
        "cannot resume: the reward model (rm/reward) has changed since out/checkpoint-4 was written. Restore "
        "it, or start a new run from the checkpoint's policy, value"
    )


def test_code_may_be_mended_which_is_said(tmp_path, caplog):
    (tmp_path / "mine.py").write_text("def score(prompts, responses, labels):\n    return [0.0]\n")
    function = load_function("mine.py:score", tmp_path)
    [before] = frozen_function(function)
    (tmp_path / "mine.py").write_text("def score(prompts, responses, labels):\n    return [1.0]\n")
    [after] = frozen_function(function)
    frozen_part(launch({FROZEN: {before.name: before.content}}), [after])
    assert caplog.messages == [
        f"the file of reward_function ({tmp_path}/mine.py) has changed since out/checkpoint-4 was written"
    ]
    assert frozen_function(len) == []


def test_a_checkpoint_keeps_it_and_one_of_earlier_versions_is_accepted():
    part = frozen_part(launch(), [REWARD])
    assert json.loads(json.dumps(part.read())) == {"the reward model": "abc"} and part.is_optional
    assert frozen_part(launch({}), [REWARD]).read() == part.read()
