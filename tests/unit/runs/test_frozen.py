"""What a run reads and never changes is known by its content, and a resumed run that finds another is refused."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from alignment.data.sources.packing import TOKENIZER
from alignment.errors import CheckpointError, ModelFolderError
from alignment.models.tokenizer.tokenizer import load_tokenizer
from alignment.parallel.comms.group import ALONE
from alignment.rollout.rewards.user_code import load_function
from alignment.runs.frozen import (
    FROZEN,
    FrozenInput,
    frozen_functions,
    frozen_model,
    frozen_part,
    frozen_random_model,
    frozen_tokenizer,
)
from tests.forked_ranks import run_forked

CHECKPOINT = Path("out/checkpoint-4")


def launch(state=None, do_train=True):
    """A run that starts afresh, or from a checkpoint with ``state``."""
    checkpoint = None if state is None else SimpleNamespace(folder=CHECKPOINT, state=state, models=["policy", "value"])
    parsed = SimpleNamespace(training=SimpleNamespace(do_train=do_train))
    return SimpleNamespace(checkpoint=checkpoint, parsed=parsed)


def written(*inputs):
    """The state of a checkpoint whose run found ``inputs``."""
    return json.loads(json.dumps({FROZEN: frozen_part(launch(), lambda: inputs).read()}))


@pytest.fixture
def folder(tmp_path):
    """A model folder with weights in two formats, of which the first is read, and other files."""
    config = {"hidden_size": 8, "vocab_size": 20, "transformers_version": "4.40.0", "_name_or_path": "/theirs"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    for name in ("model.safetensors", "pytorch_model.bin", "tokenizer.json", "README.md"):
        (tmp_path / name).write_text(name)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "counts"),
    [("model.safetensors", True), ("pytorch_model.bin", False), ("model_state.tp00.pdparams", False),
     ("adapter.safetensors", False), ("training_args.bin", False), ("README.md", False), ("tokenizer.json", False)],
)  # fmt: skip
def test_a_model_is_its_configuration_and_the_weights_that_are_read(folder, name, counts):
    before = frozen_model("the reference", str(folder), ALONE)
    (folder / name).write_text("changed")
    after = frozen_model("the reference", str(folder), ALONE)
    assert (before != after) == counts and before[:2] == after[:2] == ("the reference", str(folder))


def test_the_shards_that_the_index_names_are_read(folder):
    (folder / "model.safetensors").unlink()
    for name in ("a.safetensors", "b.safetensors", "c.safetensors"):
        (folder / name).write_text(name)
    index = {"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    before = frozen_model("the reference", str(folder), ALONE)
    (folder / "c.safetensors").write_text("changed")
    assert frozen_model("the reference", str(folder), ALONE) == before
    (folder / "b.safetensors").write_text("changed")
    assert frozen_model("the reference", str(folder), ALONE) != before


@pytest.mark.parametrize(
    ("config", "counts"),
    [
        ({"vocab_size": 20, "hidden_size": 8}, False),
        ({"vocab_size": 20, "hidden_size": 8, "transformers_version": "5.0.0", "paddlenlp_version": None}, False),
        ({"vocab_size": 20, "hidden_size": 16}, True),
        ({"vocab_size": 20, "hidden_size": 8, "rope_theta": 5.0}, True),
    ],
)
def test_a_configuration_is_its_values_and_not_who_wrote_them(folder, config, counts):
    before = frozen_model("the reference", str(folder), ALONE)
    (folder / "config.json").write_text(json.dumps(config, indent=4))
    assert (frozen_model("the reference", str(folder), ALONE) != before) == counts


def test_random_weights_are_their_configuration_and_seed(folder):
    config = str(folder / "config.json")
    first = frozen_random_model("the reference", config, 1, ALONE)
    (folder / "model.safetensors").write_text("changed")
    assert first.content == frozen_random_model("the reference", str(folder), 1, ALONE).content
    with pytest.raises(CheckpointError) as raised:
        frozen_part(launch(written(first)), lambda: [frozen_random_model("the reference", config, 2, ALONE)])
    assert str(raised.value) == (
        f"cannot resume: out/checkpoint-4 was written with the reference {config} with random weights of seed 1, this "
        f"run names {config} with random weights of seed 2. Name {config} with random weights of seed 1 again, or "
        "start a new run from the checkpoint's policy, value"
    )


def _find_where_one_lacks_it(topology, folder, lacks):
    place = folder / "gone" if topology.world.index == lacks else folder
    try:
        return frozen_model("the reference", str(place), topology.world).content
    except (OSError, ModelFolderError) as error:
        return str(error)


@pytest.mark.parametrize(
    ("lacks", "says"),
    [
        (0, "{folder}/gone/config.json: no such file; a model folder needs a config.json"),
        (1, "[Errno 2] No such file or directory: '{folder}/gone/model_state.tp01.pdparams'"),
    ],
)
def test_files_that_one_process_lacks_are_named_by_all(folder, lacks, says):
    """The first process lists the files, each reads a share."""
    for name in ("model.safetensors", "pytorch_model.bin"):
        (folder / name).unlink()
    for number in range(2):
        (folder / f"model_state.tp0{number}.pdparams").write_text("x" * (2 - number))
    assert run_forked(_find_where_one_lacks_it, 2, folder, lacks) == [says.format(folder=folder)] * 2


def test_a_tokenizer_is_what_its_ids_mean_and_its_template_where_that_is_used():
    tokenizer = load_tokenizer(TOKENIZER)
    other = tokenizer.with_chat_template("{{ messages[0].content }}")
    for template in ("none", "User: {} Assistant: "):
        [one] = frozen_tokenizer("a", tokenizer, template)
        assert frozen_tokenizer("a", other, template) == [one]
        assert one == ("the tokenizer", "a", tokenizer.fingerprint(), False)
    before = frozen_tokenizer("a", tokenizer, "tokenizer", owner=" of the reward model")
    after = frozen_tokenizer("a", other, "tokenizer", owner=" of the reward model")
    assert [item.name for item in after] == [
        "the tokenizer of the reward model",
        "the chat template of the reward model",
    ]
    assert [one == another for one, another in zip(before, after, strict=True)] == [True, False]


REWARD = FrozenInput("the reward model", "rm/reward", "abc")


def test_what_changed_is_refused_by_name_and_place():
    frozen_part(launch(written(REWARD)), lambda: [REWARD])
    with pytest.raises(CheckpointError) as raised:
        frozen_part(launch(written(REWARD._replace(content="xyz"))), lambda: [REWARD])
    assert str(raised.value) == (
        "cannot resume: the reward model (rm/reward) has changed since out/checkpoint-4 was written. Restore "
        "it, or start a new run from the checkpoint's policy, value"
    )


def test_another_model_is_named_beside_that_of_the_checkpoint():
    with pytest.raises(CheckpointError) as raised:
        frozen_part(launch(written(REWARD)), lambda: [FrozenInput("the reward model", "other/reward", "xyz")])
    assert str(raised.value) == (
        "cannot resume: out/checkpoint-4 was written with the reward model rm/reward, this run names other/reward. "
        "Name rm/reward again, or start a new run from the checkpoint's policy, value"
    )


def test_a_copy_elsewhere_is_the_same_model(caplog):
    copy = REWARD._replace(place="copy/reward")
    part = frozen_part(launch(written(REWARD)), lambda: [copy])
    assert part.read()["the reward model"]["place"] == "copy/reward" and not caplog.messages


def test_a_run_that_only_evaluates_neither_reads_nor_refuses():
    def find():
        raise AssertionError("reads all weights for nothing")

    part = frozen_part(launch(written(REWARD), do_train=False), find)
    assert part.read() == {} and part.is_optional


def test_code_may_be_mended_which_is_said(tmp_path, caplog):
    (tmp_path / "mine.py").write_text("def score(prompts, responses, labels):\n    return [0.0]\n")
    function = load_function("mine.py:score", tmp_path)
    [before] = frozen_functions([function])
    (tmp_path / "mine.py").write_text("def score(prompts, responses, labels):\n    return [1.0]\n")
    [after] = frozen_functions([function])
    frozen_part(launch(written(before)), lambda: [after])
    assert caplog.messages == [
        f"the file of reward_function ({tmp_path}/mine.py) has changed since out/checkpoint-4 was written"
    ]
    assert frozen_functions([len]) == frozen_functions([]) == []


def test_a_checkpoint_keeps_it():
    part = frozen_part(launch(), lambda: [REWARD])
    assert json.loads(json.dumps(part.read())) == {
        "the reward model": {"form": 2, "place": "rm/reward", "content": "abc"}
    }
    assert part.is_optional


@pytest.mark.parametrize("record", ["xyz", {"form": 1, "place": "rm/reward", "content": "xyz"}, None])
def test_a_record_of_another_form_is_accepted_and_said(record, caplog):
    part = frozen_part(launch({FROZEN: {"the reward model": record, "the tokenizer": "1"}}), lambda: [REWARD])
    assert part.read() == written(REWARD)[FROZEN]
    assert caplog.messages == [
        "out/checkpoint-4 was written by another version, whose checksums cannot be compared: whether the reward model "
        "changed is not checked"
    ]


def test_a_checkpoint_without_a_record_is_accepted(caplog):
    assert frozen_part(launch({}), lambda: [REWARD]).read() == written(REWARD)[FROZEN]
    assert not caplog.messages


def test_a_folder_with_two_roles_is_read_once(folder, monkeypatch):
    """A LoRA run's base is its reference too."""
    known = {}
    first = frozen_model("the base of the policy", str(folder), ALONE, known)
    monkeypatch.setattr("alignment.runs.frozen.hash_files", None)
    again = frozen_model("the reference", str(folder), ALONE, known)
    assert again == first._replace(name="the reference") and first.content == known[str(folder)]
