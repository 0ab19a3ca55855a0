"""The newest complete checkpoint is found, and the reason is said for those passed over."""

import numpy as np
import pytest

from alignment.errors import CheckpointError
from alignment.training.checkpoint import MANIFEST, Checkpoint, CheckpointStore


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
