"""The newest complete checkpoint is found, and the reason is given for those skipped."""

import json

import numpy as np
import pytest
import xxhash

from alignment.errors import CheckpointError
from alignment.parallel.comms.group import ALONE
from alignment.training.checkpoint import MANIFEST, Checkpoint, CheckpointStore, find_damage


def _save(store, step):
    return store.save(
        step,
        models={"policy": lambda folder: (folder.mkdir(), (folder / "weights").write_bytes(b"12345"))},
        tensors={"policy_optimizer": {"a/moment1_0": np.arange(3.0)}},
        state={"seed": 7},
    )


def test_round_trip(tmp_path):
    checkpoint = Checkpoint(_save(CheckpointStore(tmp_path), 4))
    assert checkpoint.state["step"] == 4
    assert checkpoint.state["seed"] == 7
    np.testing.assert_array_equal(checkpoint.tensors("policy_optimizer")["a/moment1_0"], np.arange(3.0))


def test_limit_keeps_the_newest(tmp_path):
    store = CheckpointStore(tmp_path, limit=2)
    for step in (2, 9, 10):
        _save(store, step)
    assert [p.name for p in store.all()] == ["checkpoint-10", "checkpoint-9"]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda c: (c / MANIFEST).unlink(), "never finished"),
        (lambda c: (c / "policy" / "weights").write_bytes(b"12"), "2 bytes where 5 bytes"),
        (lambda c: (c / "policy" / "weights").unlink(), "no file"),
        (lambda c: (c / MANIFEST).write_text("{"), "damaged"),
    ],
)
def test_a_damaged_newest_is_passed_over_by_name_and_refused_when_asked_for(tmp_path, caplog, damage, reason):
    store = CheckpointStore(tmp_path)
    good, bad = _save(store, 1), _save(store, 2)
    damage(bad)
    assert store.newest() == good
    assert "checkpoint-2" in caplog.text
    with pytest.raises(CheckpointError, match=reason):
        Checkpoint(bad)


def test_nothing_complete(tmp_path):
    assert CheckpointStore(tmp_path).newest() is None


def _change(name, position, value):
    """Write ``value`` over the bytes of a file at ``position`` without changing its size."""

    def damage(checkpoint):
        with (checkpoint / name).open("r+b") as file:
            file.seek(position)
            file.write(value)

    return damage


@pytest.mark.parametrize(
    ("name", "position", "value"),
    [
        ("policy/weights", 2, bytes([ord("3") ^ 1])),
        ("policy_optimizer.safetensors", -8, b"\0" * 8),
        ("state.json", -3, b"8"),
    ],
    ids=["one bit of the weights", "zeros in the optimizer's state", "a digit of the state"],
)
def test_a_change_that_no_size_shows_is_found_and_passed_over_by_name(tmp_path, caplog, name, position, value):
    store = CheckpointStore(tmp_path)
    good, bad = _save(store, 1), _save(store, 2)
    size = (bad / name).stat().st_size
    _change(name, position % size, value)(bad)
    assert (bad / name).stat().st_size == size
    assert store.newest() == good
    assert f"skipped {bad}: {name} is damaged: its checksum has changed since it was written" in caplog.text
    assert find_damage(good, ALONE) is None


def test_every_file_but_the_manifest_has_size_and_checksum(tmp_path):
    checkpoint = _save(CheckpointStore(tmp_path), 1)
    files = json.loads((checkpoint / MANIFEST).read_text())["files"]
    assert sorted(files) == ["policy/weights", "policy_optimizer.safetensors", "state.json"]
    assert files["policy/weights"] == {"size": 5, "xxh3_128": xxhash.xxh3_128_hexdigest(b"12345")}


def test_a_checkpoint_without_checksums_is_judged_by_sizes(tmp_path):
    """Earlier versions wrote sizes only."""
    checkpoint = _save(CheckpointStore(tmp_path), 1)
    content = json.loads((checkpoint / MANIFEST).read_text())
    content["files"] = {name: entry["size"] for name, entry in content["files"].items()}
    (checkpoint / MANIFEST).write_text(json.dumps(content))
    assert CheckpointStore(tmp_path).newest() == checkpoint
    (checkpoint / "policy" / "weights").write_bytes(b"1234")
    assert CheckpointStore(tmp_path).newest() is None


@pytest.mark.parametrize("content", ["[]", '{"files": []}', '{"files": {"a": {}}}', '{"files": {"a": "5"}}', "null"])
def test_a_manifest_of_another_form_is_damage(tmp_path, caplog, content):
    checkpoint = _save(CheckpointStore(tmp_path), 1)
    (checkpoint / MANIFEST).write_text(content)
    assert CheckpointStore(tmp_path).newest() is None
    assert f"its {MANIFEST} is damaged" in caplog.text


def test_a_damaged_checkpoint_is_no_copy_that_the_limit_counts(tmp_path):
    first = CheckpointStore(tmp_path)
    for step in (1, 2, 3):
        _save(first, step)
    _change("policy/weights", 0, b"9")(tmp_path / "checkpoint-3")
    store = CheckpointStore(tmp_path, limit=2)
    assert store.newest().name == "checkpoint-2"
    _save(store, 4)
    assert [path.name for path in store.all()] == ["checkpoint-4", "checkpoint-3", "checkpoint-2"]
    _save(store, 3)
    assert [path.name for path in store.all()] == ["checkpoint-4", "checkpoint-3"]


def test_state_of_other_parameters_of_the_model_is_left_to_their_processes(tmp_path):
    checkpoint = Checkpoint(_save(CheckpointStore(tmp_path), 4))
    assert checkpoint.tensors("policy_optimizer", parts={}, known={"a"}) == {}
    with pytest.raises(CheckpointError, match="optimizer state holds 'a', which is not a parameter of this model"):
        checkpoint.tensors("policy_optimizer", parts={}, known={"b"})
