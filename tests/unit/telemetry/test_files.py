"""A file is replaced whole or not at all."""

from __future__ import annotations

import os

import pytest

from alignment.errors import UserError
from alignment.telemetry.files import replace_file


def test_replaces_and_leaves_nothing_aside(tmp_path):
    replace_file(tmp_path / "new" / "a.txt", "one")
    replace_file(tmp_path / "new" / "a.txt", "two\n")
    assert (tmp_path / "new" / "a.txt").read_bytes() == b"two\n"
    assert [entry.name for entry in (tmp_path / "new").iterdir()] == ["a.txt"]


def test_a_failure_keeps_the_old_content(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    replace_file(path, "old")

    def fail(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(UserError, match=r"cannot write .*a\.txt: No space left"):
        replace_file(path, "new")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_the_whole_text_is_forced_to_the_disk(tmp_path, monkeypatch):
    sizes, sync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (sizes.append(os.fstat(descriptor).st_size), sync(descriptor)))
    replace_file(tmp_path / "a.txt", "x" * 1000)
    assert sizes[0] == 1000 and len(sizes) == 2, "the file, then its folder"
