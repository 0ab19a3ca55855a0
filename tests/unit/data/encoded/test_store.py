"""Columns of samples: every value comes back as it was, from memory and from disk, whatever stands beside it."""

from __future__ import annotations

import numpy as np
import pytest

from alignment.data.encoded.store import NotPlainError, Store

COLUMNS = {
    "ids": [np.array([1, 2]), np.array([], np.int64), np.array([2**31 - 1, -(2**31)])],
    "long": [np.array([2**31]), np.array([1]), np.array([2])],
    "numbers": [1, -2, 2**40],
    "mixed": [1, None, "a"],
    "flags": [True, False, None],
    "shares": [0.5, 1, 2],
    "texts": ["a", "\u00e9", ""],
    "lists": [["a", {"b": 1}], [], None],
}


def _samples(names):
    return [{name: COLUMNS[name][row] for name in names} for row in range(3)]


def _plain(sample):
    return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in sample.items()}


@pytest.mark.parametrize("name", COLUMNS)
def test_values_and_their_types_come_back(name):
    store = Store.pack(_samples([name]))
    halves = Store.join([Store.pack(_samples([name])[:1]), Store.pack([]), Store.pack(_samples([name])[1:])])
    for found in (store, halves):
        values = [found.read(row)[name] for row in range(3)]
        assert [_plain({name: value}) for value in values] == list(map(_plain, _samples([name])))
        assert [type(value) for value in values] == [type(value) for value in COLUMNS[name]]
    assert store.size == halves.size == 3


def test_what_is_saved_is_read_from_the_disk(tmp_path):
    names = [name for name in COLUMNS if name != "long"]
    store = Store.pack(_samples(names))
    kinds = store.save(tmp_path)
    assert kinds == {
        "ids": "ragged", "numbers": "numbers", "mixed": "json", "flags": "json", "shares": "json", "texts": "json",
        "lists": "json",
    }  # fmt: skip
    loaded = Store.load(tmp_path, kinds, 3)
    assert [_plain(loaded.read(row)) for row in range(3)] == list(map(_plain, _samples(names)))


def test_a_value_that_json_does_not_give_back_is_not_saved(tmp_path):
    with pytest.raises(NotPlainError):
        Store.pack([{"a": ("tuple",)}, {"a": None}]).save(tmp_path)


def test_no_samples_are_an_empty_store():
    assert (Store.pack([]).size, Store.pack([]).columns, Store.join([]).size) == (0, {}, 0)
