"""Reading local files and folders, and every way in which they can be wrong."""

from __future__ import annotations

import gzip
import json
import lzma

import pytest

from alignment.data.sources.tables import MissingPathError, column, find_files, read_table
from alignment.errors import DataError

ROWS = [{"a": 1}, {"a": 2}]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("x.jsonl", LINES.encode()),
        ("x.json", json.dumps(ROWS, indent=2).encode()),
        ("x.json", LINES.encode()),
        ("x.jsonl", ("\ufeff" + LINES).encode()),
        ("x.jsonl.gz", gzip.compress(LINES.encode(), mtime=0)),
        ("x.json.xz", lzma.compress(LINES.encode())),
    ],
)
def test_json_formats(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    table = read_table(tmp_path / name)
    assert list(table.rows) == ROWS
    assert [number for _, number in table.places] == [1, 2]


def test_parquet_and_arrow(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = pyarrow.Table.from_pylist(ROWS)
    parquet.write_table(table, tmp_path / "x.parquet")
    with pyarrow.ipc.new_stream(str(tmp_path / "stream.arrow"), table.schema) as writer:
        writer.write_table(table)
    with pyarrow.ipc.new_file(str(tmp_path / "file.arrow"), table.schema) as writer:
        writer.write_table(table)
    for name in ("x.parquet", "stream.arrow", "file.arrow"):
        assert list(read_table(tmp_path / name).rows) == ROWS
    for name in ("bad.parquet", "bad.arrow"):
        (tmp_path / name).write_bytes(b"nonsense")
        with pytest.raises(DataError, match=f"{name} cannot be read"):
            read_table(tmp_path / name)


def test_line_numbers_count_blank_lines(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": 1}\n\n{"a": 2}\n\n')
    assert read_table(path).describe(1) == f"{path} line 3 (columns: a)"


def test_line_separators_inside_text_do_not_end_a_line(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": "one\u2028two\x0bthree"}\n'.replace("\x0b", "\\u000b"), encoding="utf-8")
    assert len(read_table(path).rows) == 1


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"a": 1}\n{"a": \n', "x.jsonl line 2: not valid JSON"),
        (b'{"a": 1}\n[1]\n', "x.jsonl line 2: a row must be an object, got list"),
        (b'{"a": 1}\n3\n', "x.jsonl line 2: a row must be an object, got int"),
        (b"[1, 2]", "x.jsonl line 1: a row must be an object, got int"),
        (b'[{"a": 1},\n {"a"]', "x.jsonl: not valid JSON .*line 2"),
        (b"\xff\xfe", "x.jsonl cannot be read: it is not UTF-8 text .byte 0xff at position 0"),
        (b"", "x.jsonl holds no rows"),
        (b"\n\n", "x.jsonl holds no rows"),
    ],
)
def test_damaged_files_name_file_and_line(tmp_path, data, message):
    (tmp_path / "x.jsonl").write_bytes(data)
    with pytest.raises(DataError, match=message):
        read_table(tmp_path / "x.jsonl")


def test_damaged_archive(tmp_path):
    (tmp_path / "x.jsonl.gz").write_bytes(gzip.compress(LINES.encode())[:-5])
    with pytest.raises(DataError, match="x.jsonl.gz cannot be read: Compressed file ended before"):
        read_table(tmp_path / "x.jsonl.gz")


def test_missing_path_and_unknown_format(tmp_path):
    with pytest.raises(MissingPathError, match="no file or folder .*current folder"):
        read_table(tmp_path / "none")
    (tmp_path / "x.csv").write_text("a\n1\n")
    with pytest.raises(DataError, match="unknown format .allowed: .jsonl"):
        read_table(tmp_path / "x.csv")


def test_folders_and_splits(tmp_path):
    for name in ("data/train-0.jsonl", "data/train-1.jsonl", "test/part.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(LINES)
    (tmp_path / "dataset_info.json").write_text("{}")
    found = {splits: find_files(tmp_path, splits) for splits in (("train",), ("test",), None)}
    assert {splits: [file.name for file in files] for splits, (files, _) in found.items()} == {
        ("train",): ["train-0.jsonl", "train-1.jsonl"],
        ("test",): ["part.jsonl"],
        None: ["train-0.jsonl", "train-1.jsonl", "part.jsonl"],
    }
    assert len(read_table(tmp_path, splits=("train",)).rows) == 4
    with pytest.raises(DataError, match="has no split 'validation' .it has train, test.; choose one with split=NAME"):
        find_files(tmp_path, ("validation",))


def test_files_without_a_split_serve_every_split(tmp_path):
    (tmp_path / "x.jsonl").write_text(LINES)
    assert [file.name for file in find_files(tmp_path, ("test",)).files] == ["x.jsonl"]


def test_several_formats_in_a_folder_are_refused(tmp_path):
    for name in ("x.jsonl", "x.json"):
        (tmp_path / name).write_text(LINES)
    with pytest.raises(DataError, match="several formats .*.json.*.jsonl.*; name one file"):
        read_table(tmp_path)


def test_missing_column():
    with pytest.raises(DataError, match="f line 3 .columns: a.: missing column 'b'"):
        column({"a": 1}, "b", "f line 3 (columns: a)")


def test_all_formats_of_a_folder_are_named_in_order(tmp_path):
    names = [".arrow", ".json", ".jsonl", ".parquet"]
    for name in names:
        (tmp_path / f"rows{name}").write_bytes(b"")
    with pytest.raises(DataError) as error:
        find_files(tmp_path, None)
    assert f"holds files of several formats ({', '.join(names)}); name one file" in str(error.value)
