"""Files of tensors: agreement with the safetensors library, and one clear error for any damage."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from alignment.errors import ModelFolderError
from alignment.models.safetensors_io import (
    INDEX_FILE,
    Location,
    TensorEntry,
    cut_files,
    file_names,
    list_file,
    read_tensors,
    remove_weights,
    write_files,
    write_index,
)

ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def write_tensors(folder, tensors, *, max_shard_bytes=10**9):
    tensors = list(tensors)
    cut = cut_files([TensorEntry(name, array.dtype, array.shape) for name, array in tensors], max_bytes=max_shard_bytes)
    files = dict(zip(file_names(len(cut)), cut, strict=True))
    remove_weights(folder)
    write_files(folder, files, tensors)
    write_index(folder, files)


def pack(header, body=bytes(8)):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_the_library_and_we_read_each_other(tmp_path, dtype):
    matrix, nothing = np.arange(6, dtype=dtype).reshape(2, 3), np.zeros((0, 4), dtype)
    arrays = {"matrix": matrix, "scalar": np.array(1.5, dtype), "nothing": nothing}
    write_tensors(tmp_path, arrays.items())
    theirs = load_file(tmp_path / "model.safetensors")
    save_file(arrays, tmp_path / "other.safetensors")
    ours = {stored.name: stored.array for stored in map(Location.read, list_file(tmp_path / "other.safetensors"))}
    for found in (theirs, ours):
        assert found.keys() == arrays.keys()
        for name, array in arrays.items():
            assert found[name].dtype == dtype
            np.testing.assert_array_equal(found[name], array)


def test_bfloat16_is_the_upper_half_of_float32(tmp_path):
    write_tensors(tmp_path, [("a", np.array([0x3F80, 0xC020, 0x7F80], np.uint16))])
    [stored] = read_tensors(tmp_path)
    assert stored.is_bfloat16
    np.testing.assert_array_equal(stored.as_float32(), np.array([1.0, -2.5, np.inf], np.float32))


@pytest.mark.parametrize(
    "header",
    [
        [1],
        "text",
        {"a": None},
        {"a": {"shape": [2], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F32", "data_offsets": [0, 8]}},
        {"a": {**ENTRY, "data_offsets": [0, 4, 8]}},
        {"a": {**ENTRY, "data_offsets": ["0", 8]}},
        {"a": {**ENTRY, "data_offsets": [8, 8]}},
        {"a": {**ENTRY, "data_offsets": [-8, 8]}},
        {"a": {**ENTRY, "shape": "x"}},
        {"a": {**ENTRY, "shape": [3]}},
        {"a": {**ENTRY, "shape": [-1, -2]}},
        {"a": {**ENTRY, "dtype": "F8_E4M3"}},
    ],
)
def test_a_header_that_makes_no_sense(tmp_path, header):
    path = tmp_path / "model.safetensors"
    path.write_bytes(pack(header))
    with pytest.raises(ModelFolderError, match=str(path)):
        list(map(Location.read, list_file(path)))


def test_shards_are_written_and_read(tmp_path):
    arrays = {f"t{i}": np.full((4, 8), i, np.float32) for i in range(5)}
    write_tensors(tmp_path, arrays.items(), max_shard_bytes=300)
    assert sorted(p.name for p in tmp_path.glob("*.safetensors")) == [
        f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)
    ]
    found = {s.name: s.array for s in read_tensors(tmp_path)}
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(ModelFolderError, match="model-00002-of-00003"):
        list(read_tensors(tmp_path))


@given(place=st.integers(0, 200), value=st.integers(0, 255), keep=st.integers(0, 200))
def test_any_damage_is_an_error_or_other_numbers(tmp_path_factory, place, value, keep):
    """Whatever byte is changed and wherever the file ends, nothing but a ModelFolderError comes out."""
    path = tmp_path_factory.mktemp("damaged") / "model.safetensors"
    second = {**ENTRY, "data_offsets": [8, 16]}
    whole = bytearray(pack({"__metadata__": {"format": "pt"}, "a": ENTRY, "b": second}, bytes(16)))
    whole[place % len(whole)] = value
    path.write_bytes(whole[: keep if keep % 3 == 0 else len(whole)])
    try:
        found = {stored.name: stored.array for stored in map(Location.read, list_file(path))}
    except ModelFolderError as error:
        assert str(path) in str(error)
    else:
        assert len(found) in (1, 2)


@pytest.mark.parametrize("content", ["[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": 3}}', "{", ""])
def test_an_index_that_makes_no_sense(tmp_path, content):
    (tmp_path / INDEX_FILE).write_text(content)
    with pytest.raises(ModelFolderError, match=INDEX_FILE):
        list(read_tensors(tmp_path))


@pytest.mark.parametrize("sizes", [(8, 1000), (1000, 8), (8, 16)])
def test_weights_that_were_there_before_are_gone(tmp_path, sizes):
    for value, size in enumerate(sizes):
        write_tensors(tmp_path, [(name, np.full(2, value, np.float32)) for name in "abc"], max_shard_bytes=size)
    assert {stored.name: stored.array.tolist() for stored in read_tensors(tmp_path)} == dict.fromkeys("abc", [1.0, 1.0])
    assert len(list(tmp_path.glob("*.safetensors"))) == {8: 3, 16: 2, 1000: 1}[sizes[1]]
