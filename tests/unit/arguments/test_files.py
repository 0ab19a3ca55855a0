"""JSON and YAML files of arguments."""

from __future__ import annotations

import json

import pytest

from alignment.arguments.files import read_file
from alignment.errors import ArgumentError


def _write(tmp_path, text, name="a.json"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def test_repeated_key_in_the_file_names_its_lines(tmp_path):
    source = read_file(_write(tmp_path, '{\n "a": 1,\n "b": 2,\n "a": 3\n}'))
    assert len(source.problems) == 1
    assert "lines 2 and 4" in source.problems[0]


def test_place_of_a_value_names_file_and_line(tmp_path):
    source = read_file(_write(tmp_path, '{\n "a": 1,\n "b": {"c": 2}\n}'))
    assert source.given[1].value == {"c": 2}
    assert source.given[1].place.endswith("a.json, line 3")


def test_invalid_json_names_file_line_and_column(tmp_path):
    with pytest.raises(ArgumentError, match=r"a\.json, line 2, column 9"):
        read_file(_write(tmp_path, '{\n "a": 1 "b": 2}'))


@pytest.mark.parametrize("text", ["[1, 2]", '"text"', "3"])
def test_only_an_object_is_accepted(tmp_path, text):
    with pytest.raises(ArgumentError, match="one JSON object"):
        read_file(_write(tmp_path, text))


def test_missing_file_names_the_folder_tried(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArgumentError) as error:
        read_file(tmp_path.relative_to(tmp_path) / "none.json")
    assert str(tmp_path / "none.json") in str(error.value)


def test_unreadable_files_are_user_errors(tmp_path):
    (tmp_path / "binary.json").write_bytes(b"{\xff\xfe\x00")
    why = {"binary.json": "it is not UTF-8 text (byte 0xff at position 1)", ".": "it is a folder"}
    for name, reason in why.items():
        with pytest.raises(ArgumentError) as raised:
            read_file(tmp_path / name)
        assert str(raised.value) == f"arguments file {tmp_path / name} cannot be read: {reason}"
    with pytest.raises(ArgumentError, match="invalid JSON"):
        read_file(_write(tmp_path, '{"a": ' + "9" * 6000 + "x}"))


def test_byte_order_mark_is_skipped(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps({"a": 1}).encode())
    assert read_file(path).given[0].value == 1


def test_lists_and_objects_inside_a_value_are_plain(tmp_path):
    source = read_file(_write(tmp_path, '{"a": [{"b": {"c": 1}}]}'))
    assert source.given[0].value == [{"b": {"c": 1}}] and type(source.given[0].value[0]["b"]) is dict


@pytest.mark.parametrize("key", ["_model", "comment", "comment-why", "Comments", "//", "# old"])
def test_remarks_are_left_out(key, tmp_path):
    source = read_file(_write(tmp_path, json.dumps({key: 1, "commentator": 2})))
    assert [given.key for given in source.given] == ["commentator"] and not source.problems


def test_yaml_is_read_with_its_lines(tmp_path):
    text = "a: 1 # why\nrate: 1e-6\non: true\nempty:\nnames: [x, y]\n"
    source = read_file(_write(tmp_path, text, "a.yaml"))
    assert {given.key: given.value for given in source.given} == {
        "a": 1, "rate": "1e-6", "on": True, "empty": None, "names": ["x", "y"],
    }  # fmt: skip
    assert source.given[1].place.endswith("a.yaml, line 2")


def test_yaml_and_json_of_the_same_keys_are_the_same(tmp_path):
    values = {"a": 1, "b": "text", "c": [1, 2], "d": None, "e": 0.5, "f": {"g": True}}
    first = read_file(_write(tmp_path, json.dumps(values)))
    second = read_file(_write(tmp_path, json.dumps(values, indent=1), "a.yml"))
    assert [given[:2] for given in first.given] == [given[:2] for given in second.given]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: 1\na: 2\n", None),
        ("a: [1\nb: 2\n", "line 2"),
        ("- a\n- b\n", "one YAML mapping"),
        ("", "one YAML mapping"),
        ("a: !!python/object/apply:os.system [true]\n", "line 1"),
    ],
)
def test_yaml_that_cannot_be_used(text, says, tmp_path):
    path = _write(tmp_path, text, "a.yaml")
    if says is None:
        assert "lines 1 and 2" in read_file(path).problems[0]
        return
    with pytest.raises(ArgumentError, match=says) as error:
        read_file(path)
    assert "a.yaml" in str(error.value)
