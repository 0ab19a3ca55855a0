"""The order of system calls: what is on the disk when the power fails between any two of them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from alignment.training.checkpoint import CheckpointStore, incompleteness
from alignment.training.durable import write_folder


class _Recorder:
    """Every sync, rename and removal below a folder, in order, as (what, path, size or target)."""

    def __init__(self, monkeypatch, root):
        self.calls, self._root = [], root
        monkeypatch.setattr(os, "fsync", self._around(os.fsync, "sync", self._of_descriptor))
        for module, name, what in ((os, "rename", "rename"), (os, "replace", "rename"), (shutil, "rmtree", "remove")):
            monkeypatch.setattr(module, name, self._around(getattr(module, name), what, self._of_paths))

    def _around(self, call, what, describe):
        def recorded(*arguments, **options):
            detail = describe(*arguments)
            if what != "remove" or detail[0] is not None and (self._root / detail[0]).exists():
                self.calls.append((what, *detail))
            return call(*arguments, **options)

        return recorded

    def _relative(self, path):
        path = Path(path)
        return str(path.relative_to(self._root)) if path.is_relative_to(self._root) else None

    def _of_descriptor(self, descriptor):
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        return self._relative(path), None if os.path.isdir(path) else os.path.getsize(path)

    def _of_paths(self, source, target=None, *rest):
        return self._relative(source), None if not isinstance(target, (str, Path)) else self._relative(target)

    def place(self, what, *, source=None, target=None, start=0):
        """Return the number of the first call from ``start`` on that fits."""
        for number, (kind, first, second) in enumerate(self.calls[start:], start):
            if kind == what and source in (None, first) and target in (None, second):
                return number
        raise AssertionError(f"no {what} of {source or target} from call {start} on: {self.calls}")


def _moved(recorder, target):
    """Return (number of the call that gave ``target`` its name, the folder it was written in)."""
    number = recorder.place("rename", target=target)
    return number, recorder.calls[number][1]


def _assert_synced(recorder, folder, target, before):
    """Every file of ``folder``, which was written as ``target``, was synced in its last size before call ``before``."""
    synced = {(path, size) for what, path, size in recorder.calls[:before] if what == "sync"}
    written = [p for p in [folder, *folder.rglob("*")]]
    for path in written:
        name = Path(target, path.relative_to(folder))
        assert (str(name), None if path.is_dir() else path.stat().st_size) in synced, f"{name} was not synced"


def test_a_folder_is_synced_named_and_known_to_its_parent_before_the_old_one_goes(tmp_path, monkeypatch):
    with write_folder(tmp_path / "policy") as aside:
        (aside / "weights").write_text("old")
    recorder = _Recorder(monkeypatch, tmp_path)
    with write_folder(tmp_path / "policy") as aside:
        (aside / "inner").mkdir()
        (aside / "weights").write_text("newer")
        (aside / "inner" / "config").write_text("{}")
    named, written_in = _moved(recorder, "policy")
    _assert_synced(recorder, tmp_path / "policy", written_in, named)
    known = recorder.place("sync", source=".", start=named)
    retired = recorder.calls[recorder.place("rename", source="policy")][2]
    assert recorder.place("remove", source=retired) > known, "the old folder is deleted after the new one is kept"
    assert not any(call[:2] == ("remove", "policy") for call in recorder.calls)
    assert [p.name for p in tmp_path.iterdir()] == ["policy"]


def _save(store, step):
    return store.save(
        step,
        models={"policy": lambda folder: (folder.mkdir(), (folder / "weights").write_bytes(b"12345"))},
        tensors={"policy_optimizer": {"a/moment1_0": np.arange(3.0)}},
        state={"seed": 7},
    )


def test_a_checkpoint_is_kept_whole_before_an_older_one_goes(tmp_path, monkeypatch):
    store = CheckpointStore(tmp_path, limit=1)
    _save(store, 1)
    recorder = _Recorder(monkeypatch, tmp_path)
    saved = _save(store, 2)
    named, written_in = _moved(recorder, "checkpoint-2")
    _assert_synced(recorder, saved, written_in, named)
    known = recorder.place("sync", source=".", start=named)
    # Renamed first: a kill during the removal leaves no half of it under its name.
    assert recorder.place("rename", source="checkpoint-1") > known
    assert not any(call[:2] == ("remove", "checkpoint-1") for call in recorder.calls)
    assert store.all() == [saved]


@pytest.mark.parametrize("damaged", [1, 2, 3])
def test_the_limit_counts_checkpoints_that_can_be_resumed_from(tmp_path, damaged):
    store = CheckpointStore(tmp_path)
    for step in (1, 2, 3):
        _save(store, step)
    (tmp_path / f"checkpoint-{damaged}" / "policy" / "weights").unlink()
    limited = CheckpointStore(tmp_path, limit=2)
    _save(limited, 4)
    whole = [path for path in limited.all() if incompleteness(path) is None]
    assert [path.name for path in whole] == ["checkpoint-4", f"checkpoint-{2 if damaged == 3 else 3}"]
    assert limited.newest() == whole[0]
