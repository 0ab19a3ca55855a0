"""Encoded rows on disk: what may go wrong around them, and what their name depends on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from alignment.data.encoded import cache
from alignment.data.encoded.cache import CacheEntry, EncodedCache, _code_key
from alignment.data.encoded.store import Store


@pytest.fixture
def entry():
    store = Store.pack([{"input_ids": np.array([1, 2, 3])}, {"input_ids": np.array([4])}])
    return CacheEntry(store, np.array([1, 0]), {"rows": 2})


def test_an_older_entry_that_cannot_be_deleted_is_left_without_a_word(entry, tmp_path, monkeypatch, caplog):
    def refuse(path, ignore_errors=False):
        if not ignore_errors:
            raise PermissionError(f"{path} is not yours")

    kept = EncodedCache(tmp_path, "setup")
    kept.save("first", entry)
    monkeypatch.setattr(cache.shutil, "rmtree", refuse)
    kept.save("second", entry)
    assert not caplog.records
    assert kept.load("second").order.tolist() == [1, 0] and kept.load("first").order.tolist() == [1, 0]


def test_the_key_of_the_code_does_not_depend_on_how_a_folder_is_listed(monkeypatch):
    expected, listed = _code_key.__wrapped__(), Path.rglob
    monkeypatch.setattr(Path, "rglob", lambda self, pattern: reversed(list(listed(self, pattern))))
    assert _code_key.__wrapped__() == expected and len(expected) == 64


def test_a_kept_column_is_never_unpickled(entry, tmp_path):
    kinds = entry.store.save(tmp_path)
    assert kinds == {"input_ids": "ragged"}
    np.save(tmp_path / "0.values.npy", np.array([{"code": 1}], object), allow_pickle=True)
    with pytest.raises(ValueError, match="[Oo]bject|pickle"):
        Store.load(tmp_path, kinds, 2)
