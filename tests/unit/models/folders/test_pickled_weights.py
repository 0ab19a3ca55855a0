"""Pickled weights: what they hold is read to the last number, and what is not a tensor is refused, unexecuted."""

from __future__ import annotations

import builtins
import os
import pickle
import struct
import time
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from alignment.errors import ModelFolderError
from alignment.models.folders.pdparams import list_pdparams
from alignment.models.folders.torch_bin import list_torch_bin

TORCH = Path(__file__).parents[3] / "golden" / "torch_bin"


class Call:
    """Pickled, it asks the reader to call ``function``."""

    def __init__(self, function, *arguments):
        self.parts = (function, arguments)

    def __reduce__(self):
        return self.parts


def write(path, value, protocol=4):
    path.write_bytes(pickle.dumps(value, protocol))
    return path


def read(path, lister=list_pdparams):
    return {tensor.name: tensor.read().array for tensor in lister(path)}


def test_arrays_of_every_protocol_are_read(tmp_path):
    generator = np.random.default_rng(0)
    arrays = {
        "matrix": generator.normal(size=(40, 50)).astype(np.float32),
        "large": generator.normal(size=(300, 100)),
        "fortran": np.asfortranarray(generator.normal(size=(3, 5)).astype(np.float16)),
        "bits": np.arange(6, dtype=np.uint16).reshape(2, 3),
        "empty": np.empty((0, 4), np.float32),
        "scalar": np.array(2.5, np.float32),
        "StructuredToParameterName@@": {"matrix": "linear_0.w_0"},
    }
    for protocol in (2, 3, 4):
        found = read(write(tmp_path / "x.pdparams", arrays, protocol))
        assert found.keys() == arrays.keys() - {"StructuredToParameterName@@"}
        for name, array in found.items():
            assert array.dtype == arrays[name].dtype, name
            np.testing.assert_array_equal(array, arrays[name])


def test_a_rectangle_of_an_array_is_read(tmp_path):
    array = np.arange(20, dtype=np.float32).reshape(4, 5)
    path = write(tmp_path / "x.pdparams", {"c": array, "f": np.asfortranarray(array)})
    for tensor in list_pdparams(path):
        np.testing.assert_array_equal(tensor.read((slice(1, 3), slice(2, 4))).array, [[7, 8], [12, 13]])


def test_arrays_with_the_names_of_their_variables_are_read(tmp_path):
    found = read(write(tmp_path / "x.pdparams", OrderedDict(w=Call(tuple, ("linear_0.w_0", np.ones(3)))), 2))
    assert found["w"].tolist() == [1, 1, 1]


def test_an_array_kept_in_pieces_is_put_together(tmp_path):
    state = {"w@@.0": np.arange(4, dtype=np.float32), "w@@.1": np.arange(4, 6, dtype=np.float32)}
    state["UnpackBigParamInfor@@"] = {"w": {"OriginShape": (3, 2), "slices": ["w@@.0", "w@@.1"]}}
    assert read(write(tmp_path / "x.pdparams", state, 3))["w"].tolist() == [[0, 1], [2, 3], [4, 5]]
    state["UnpackBigParamInfor@@"]["w"]["OriginShape"] = (3, 3)
    with pytest.raises(ModelFolderError, match="the pieces of w do not fit"):
        read(write(tmp_path / "x.pdparams", state, 3))


@pytest.mark.parametrize("name", ["zip.bin", "plain.bin"])
def test_what_torch_wrote_is_read(name):
    found = {tensor.name: tensor for tensor in list_torch_bin(TORCH / name)}
    with np.load(TORCH / "expected.npz") as expected:
        assert found.keys() == set(expected.files)
        for key, tensor in found.items():
            assert tensor.shape == expected[key].shape, key
            np.testing.assert_array_equal(tensor.read().as_float32(), expected[key], err_msg=key)
            assert tensor.is_float == (key not in ("whole_numbers", "bytes", "truths"))
    window = found["transposed"].read((slice(2, 4), slice(1, 3))).array
    np.testing.assert_array_equal(window, found["matrix"].read().array.T[2:4, 1:3])


def torch_file(path, pickled, **entries):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", pickled)
        for name, content in entries.items():
            archive.writestr(f"x/{name}", content)
    return path


HOSTILE = {
    "posix.system": (os.system, "touch {marker}"),
    "builtins.eval": (eval, "open({marker!r}, 'w')"),
    "builtins.exec": (exec, "open({marker!r}, 'w')"),
    "io.open": (open, "{marker}", "w"),
    "builtins.getattr": (getattr, 1, "real"),
    "builtins.__import__": (builtins.__import__, "os"),
    "pickle.loads": (pickle.loads, "N."),
    "numpy.load": (np.load, "{marker}"),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("kind", ["pdparams protocol 2", "pdparams", "zip", "plain"])
def test_what_asks_for_more_than_tensors_is_refused_and_not_executed(tmp_path, name, kind):
    marker = tmp_path / "executed"
    function, *arguments = HOSTILE[name]
    arguments = [a.format(marker=str(marker)) if isinstance(a, str) else a for a in arguments]
    state = {"w": np.ones(2), "x": Call(function, *arguments)}
    lister = list_pdparams if "pdparams" in kind else list_torch_bin
    if kind == "zip":
        path = torch_file(tmp_path / "x.bin", pickle.dumps({"x": state["x"]}, 2))
    elif kind == "plain":
        head = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, {"x": state["x"]}, []]
        path = tmp_path / "x.bin"
        path.write_bytes(b"".join(pickle.dumps(part, 2) for part in head))
    else:
        path = write(tmp_path / "x.pdparams", state, 2 if "2" in kind else 4)
    with pytest.raises(ModelFolderError) as refused:
        read(path, lister)
    text = str(refused.value)
    # Python 2 had other names for some modules, and protocol 2 writes those.
    module, _, function = name.partition(".")
    older = {"builtins": "__builtin__", "io": "__builtin__", "pickle": "_pickle"}.get(module, module)
    assert any(f"asks for '{place}.{function}'" in text for place in (module, older))
    assert str(path) in text and "nothing in it is executed" in text and "\n" not in text
    assert not marker.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"cposix\nsystem\n(S'true'\ntR.", "asks for 'posix.system'"),
        (b"(S'true'\nios\nsystem\n.", "uses the pickle instruction STRING"),
        (b"\x80\x02(ios\nsystem\n.", "uses the pickle instruction INST"),
        (b"\x80\x02(U\x01ao.", "uses the pickle instruction SHORT_BINSTRING"),
        (b"\x80\x02\x82\x01.", "uses the pickle instruction EXT1"),
        (b"\x80\x02Pos\n.", "uses the pickle instruction PERSID"),
        (b"\x80\x04K\x01Q.", "refers to objects outside the file"),
        (b"\x80\x04]]\x93.", "damaged, or not pickled weights"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "asks for 'os.system'"),
        (b"\x80\x04}K\x01\x85R.", "calls something that is not a constructor"),
        (b"\x80\x04]}b.", "fills a list"),
        (b"\x80\x04}K\x01a.", "appends to a dict"),
        (b"\x80\x04}]K\x01s.", "something other than a dictionary with names"),
        (b"\x80\x04K\x01.", "holds a int, expected weights by name"),
        (b"\x80\x04}\x8c\x01wK\x01s.", "w is not an array"),
        (b"\x80\x04}", "cut short"),
        (b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62) + b".", "cut short"),
        (b"\x80\x04\x8d" + struct.pack("<Q", 1 << 62) + b".", "cut short"),
        (b"\x80\x04h\x07.", "damaged, or not pickled weights"),
        (b"\xe0\x00\x00", "damaged, or not pickled weights"),
        (b"", "cut short"),
    ],
)
def test_instructions_that_no_writer_of_tensors_uses_are_refused(tmp_path, content, message):
    path = tmp_path / "x.pdparams"
    path.write_bytes(content)
    with pytest.raises(ModelFolderError, match=message) as refused:
        read(path)
    assert str(path) in str(refused.value)


def test_a_file_cannot_put_attributes_on_what_is_built(tmp_path):
    content = b"\x80\x02ccollections\nOrderedDict\n)R}X\x05\x00\x00\x00itemsK\x01sb."
    path = tmp_path / "x.pdparams"
    path.write_bytes(content)
    assert read(path) == {}


def test_a_file_that_unfolds_without_end_is_refused_at_once(tmp_path):
    laughs = b"\x80\x04]\x94" + b"".join(b"](h%ch%ce\x94" % (n, n) for n in range(100))
    for end in (b".", b"\x85\x93.", b"}\x93.", b"Q.", b"h\x00b.", b"}\x8c\x01wh\x63s."):
        path = tmp_path / "x.pdparams"
        path.write_bytes(laughs + end)
        start = time.monotonic()
        with pytest.raises(ModelFolderError) as refused:
            read(path)
        assert time.monotonic() - start < 5 and len(str(refused.value)) < 1000


def test_an_array_whose_bytes_do_not_fit_its_shape_is_refused(tmp_path):
    path = write(tmp_path / "x.pdparams", {"w": np.arange(6, dtype=np.float32)})
    path.write_bytes(path.read_bytes().replace(b"K\x01K\x06\x85", b"K\x01K\x07\x85"))
    with pytest.raises(ModelFolderError, match=r"w has 24 bytes where shape \[7\] needs 28"):
        read(path)


@pytest.mark.parametrize("array", [np.array(["a"]), np.ones(2, np.complex64), np.ones(2, ">f4"), np.array([None])])
def test_arrays_of_no_numbers_are_refused(tmp_path, array):
    with pytest.raises(ModelFolderError, match=r"x\.pdparams"):
        read(write(tmp_path / "x.pdparams", {"w": array}))


@pytest.mark.parametrize("cut", [10, 600, 1200, 1900, 2235])
def test_a_plain_file_that_is_cut_short_is_refused(tmp_path, cut):
    path = tmp_path / "x.bin"
    path.write_bytes((TORCH / "plain.bin").read_bytes()[:cut])
    with pytest.raises(ModelFolderError, match=r"x\.bin.*(cut short|damaged)"):
        read(path, list_torch_bin)


def test_a_zip_file_that_is_damaged_is_refused(tmp_path):
    path = tmp_path / "x.bin"
    path.write_bytes((TORCH / "zip.bin").read_bytes()[:-30])
    with pytest.raises(ModelFolderError, match=r"x\.bin"):
        read(path, list_torch_bin)
    with pytest.raises(ModelFolderError, match=r"holds 0 files data\.pkl"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x/version", "3")
        read(path, list_torch_bin)


def rewritten(path, change):
    """Write zip.bin anew with ``change`` (name, content, compression) -> (content, compression)."""
    with zipfile.ZipFile(TORCH / "zip.bin") as source, zipfile.ZipFile(path, "w") as target:
        for entry in source.infolist():
            content, compression = change(entry.filename, source.read(entry))
            target.writestr(entry.filename, content, compress_type=compression)
    return path


def test_storages_that_are_compressed_short_or_of_another_byte_order_are_refused(tmp_path):
    path = tmp_path / "x.bin"
    with pytest.raises(ModelFolderError, match="is compressed or encrypted"):
        read(rewritten(path, lambda name, content: (content, zipfile.ZIP_DEFLATED)), list_torch_bin)
    with pytest.raises(ModelFolderError, match=r"data/0 has 136 bytes for 35 numbers"):
        read(rewritten(path, lambda name, c: (c[:-4] if name.endswith("data/0") else c, 0)), list_torch_bin)
    with pytest.raises(ModelFolderError, match="not little-endian"):
        read(rewritten(path, lambda name, c: (b"big" if name.endswith("byteorder") else c, 0)), list_torch_bin)


def test_entries_that_unfold_to_gigabytes_are_refused_unread(tmp_path):
    path = tmp_path / "x.bin"
    zeros = bytes(300 << 20)
    for name, message in (("byteorder", "not little-endian"), ("data.pkl", r"data\.pkl has 314572800 bytes")):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            archive.writestr("x/data.pkl", b"N." if name != "data.pkl" else zeros)
            if name != "data.pkl":
                archive.writestr(f"x/{name}", zeros)
        with pytest.raises(ModelFolderError, match=message):
            read(path, list_torch_bin)


def test_a_tensor_that_reaches_out_of_its_storage_is_refused(tmp_path):
    def stretch(name, content):
        return (content.replace(b"K\x05K\x07\x86", b"K\x06K\x07\x86") if name.endswith(".pkl") else content, 0)

    with pytest.raises(ModelFolderError, match="ends at number 41 of a storage of 35"):
        read(rewritten(tmp_path / "x.bin", stretch), list_torch_bin)
