"""Folders appear whole or not at all."""

import errno
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from alignment.errors import CheckpointError
from alignment.training import durable


def test_a_written_folder_takes_the_place_of_the_old_one(tmp_path):
    target = tmp_path / "policy"
    for text in ("first", "second"):
        with durable.write_folder(target) as aside:
            (aside / "file").write_text(text)
    assert (target / "file").read_text() == "second"
    assert [p.name for p in tmp_path.iterdir()] == ["policy"]


def test_failure_leaves_the_old_folder_and_nothing_else(tmp_path):
    target = tmp_path / "policy"
    with durable.write_folder(target) as aside:
        (aside / "file").write_text("kept")
    with pytest.raises(CheckpointError, match="No space left"), durable.write_folder(target) as aside:
        (aside / "file").write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert (target / "file").read_text() == "kept"
    assert [p.name for p in tmp_path.iterdir()] == ["policy"]


def test_a_programming_error_passes_through_and_leaves_nothing(tmp_path):
    with pytest.raises(KeyError), durable.write_folder(tmp_path / "x"):
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_leftovers_of_a_kill_are_cleaned_and_a_retired_folder_comes_back(tmp_path):
    (tmp_path / f"{durable.ASIDE_PREFIX}checkpoint-3").mkdir()
    retired = tmp_path / f"{durable.RETIRED_PREFIX}policy"
    retired.mkdir()
    (retired / "file").write_text("kept")
    assert durable.clean_leftovers(tmp_path) == [f"{durable.ASIDE_PREFIX}checkpoint-3"]
    assert (tmp_path / "policy" / "file").read_text() == "kept"


def test_new_parents_and_renames_are_forced_to_the_disk(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(durable, "_sync", lambda path: synced.append(str(path.relative_to(tmp_path))))
    for _ in range(2):
        with durable.write_folder(tmp_path / "a" / "b" / "policy") as aside:
            (aside / "file").write_text("x")
    durable.remove_folder(tmp_path / "a" / "b" / "policy")
    written = ["a/b/.writing-policy/file", "a/b/.writing-policy", "a/b"]
    assert synced == [".", "a", *written, *written, "a/b"]


def test_the_old_folder_stays_until_the_new_one_is_whole(tmp_path, monkeypatch):
    target = tmp_path / "policy"
    with durable.write_folder(target) as aside:
        (aside / "file").write_text("old")
    seen = []
    monkeypatch.setattr(durable, "_sync", lambda path: seen.append((target / "file").read_text()))
    with durable.write_folder(target) as aside:
        (aside / "file").write_text("new")
    assert seen == ["old", "old", "new"]


def test_leftovers_are_named_in_order_however_a_folder_is_listed(tmp_path, monkeypatch):
    names = [f"{durable.ASIDE_PREFIX}{letter}" for letter in "abc"]
    for name in names:
        (tmp_path / name).mkdir()
    (tmp_path / "old").mkdir()
    (tmp_path / f"{durable.RETIRED_PREFIX}old").mkdir()
    listed = Path.glob
    monkeypatch.setattr(Path, "glob", lambda self, pattern: sorted(listed(self, pattern), reverse=True))
    assert durable.clean_leftovers(tmp_path) == sorted([*names, f"{durable.RETIRED_PREFIX}old"])
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_a_failure_says_how_much_room_there_is(tmp_path, monkeypatch):
    monkeypatch.setattr(durable.shutil, "disk_usage", lambda place: SimpleNamespace(free=3.25 * 2**20))
    target = tmp_path / "not" / "there" / "policy"
    with pytest.raises(CheckpointError) as caught, durable.write_folder(target):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert str(caught.value) == (
        f"cannot write {target}: No space left on device (3.2 MiB free there). Nothing half-written was left; earlier "
        "checkpoints are untouched"
    )
