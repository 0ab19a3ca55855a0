"""The JSON file and the command line."""

from __future__ import annotations

import json

import pytest

from alignment.arguments.sources import BARE, read_command_line, read_json
from alignment.errors import ArgumentError


def _write(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_text(text, encoding="utf-8")
    return path


def test_both_forms_bare_flags_and_negative_numbers():
    source = read_command_line(["--a", "1", "--b=2", "--c", "--d", "-1", "--e=-0.5", "--f"])
    values = {given.key: given.value for given in source.given}
    assert values == {"a": "1", "b": "2", "c": BARE, "d": "-1", "e": "-0.5", "f": BARE}
    assert not source.problems


def test_repeated_key_and_stray_word_on_the_command_line():
    source = read_command_line(["--a", "1", "stray", "--a=2"])
    assert len(source.problems) == 2
    assert "'stray'" in source.problems[0]
    assert "a: given more than once" in source.problems[1]
    assert "'1', '2'" in source.problems[1]


def test_repeated_key_in_the_file_names_its_lines(tmp_path):
    source = read_json(_write(tmp_path, '{\n "a": 1,\n "b": 2,\n "a": 3\n}'))
    assert len(source.problems) == 1
    assert "lines 2 and 4" in source.problems[0]


def test_place_of_a_value_names_file_and_line(tmp_path):
    source = read_json(_write(tmp_path, '{\n "a": 1,\n "b": {"c": 2}\n}'))
    assert source.given[1].value == {"c": 2}
    assert source.given[1].place.endswith("a.json, line 3")


def test_invalid_json_names_file_line_and_column(tmp_path):
    with pytest.raises(ArgumentError, match=r"a\.json, line 2, column 9"):
        read_json(_write(tmp_path, '{\n "a": 1 "b": 2}'))


@pytest.mark.parametrize("text", ["[1, 2]", '"text"', "3"])
def test_only_an_object_is_accepted(tmp_path, text):
    with pytest.raises(ArgumentError, match="one JSON object"):
        read_json(_write(tmp_path, text))


def test_missing_file_names_the_folder_tried(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArgumentError) as error:
        read_json(tmp_path.relative_to(tmp_path) / "none.json")
    assert str(tmp_path / "none.json") in str(error.value)


def test_unreadable_files_are_user_errors(tmp_path):
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    for name in ("binary.json", "."):
        with pytest.raises(ArgumentError, match="cannot be read"):
            read_json(tmp_path / name)
    with pytest.raises(ArgumentError, match="invalid JSON"):
        read_json(_write(tmp_path, '{"a": ' + "9" * 6000 + "x}"))


def test_byte_order_mark_is_skipped(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps({"a": 1}).encode())
    assert read_json(path).given[0].value == 1
