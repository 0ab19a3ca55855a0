"""What relative paths mean."""

from __future__ import annotations

import pytest

from alignment.arguments.paths import RESOLVERS
from alignment.errors import ArgumentError


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """(folder of the JSON file, current folder), both absolute."""
    base, current = tmp_path / "config", tmp_path / "work"
    base.mkdir()
    current.mkdir()
    monkeypatch.chdir(current)
    return base, current


def test_beside_the_file_first_then_the_current_folder(folders):
    base, current = folders
    (current / "x").touch()
    assert RESOLVERS["file"]("x", folders) == str(current / "x")
    (base / "x").touch()
    assert RESOLVERS["file"]("x", folders) == str(base / "x")


def test_both_places_are_named_when_nothing_is_there(folders):
    base, current = folders
    with pytest.raises(ArgumentError) as error:
        RESOLVERS["file"]("a/b.json", folders)
    assert "file 'a/b.json'" in str(error.value)
    assert str(base / "a/b.json") in str(error.value)
    assert str(current / "a/b.json") in str(error.value)


def test_home_and_absolute_paths(folders, monkeypatch):
    base, current = folders
    monkeypatch.setenv("HOME", str(base))
    (base / "m").mkdir()
    assert RESOLVERS["model"]("~/m", [current]) == str(base / "m")
    assert RESOLVERS["model"](str(base / "m"), [current]) == str(base / "m")


def test_model_is_a_folder_or_a_hub_name(folders):
    base, _ = folders
    (base / "org").mkdir()
    (base / "org" / "model").mkdir()
    assert RESOLVERS["model"]("org/model", folders) == str(base / "org/model")
    assert RESOLVERS["model"]("other/model", folders) == "other/model"
    assert RESOLVERS["model"]("gpt2", folders) == "gpt2"
    for value in ("output/demo/sft", "./model", "../model", "/nowhere/model", "~/nowhere"):
        with pytest.raises(ArgumentError, match="not a hub name"):
            RESOLVERS["model"](value, folders)


def test_only_the_path_of_a_dataset_is_resolved(folders):
    base, _ = folders
    (base / "rows.jsonl").touch()
    resolved = RESOLVERS["datasets"]("a, b:0.5,jsonl:1/2:rows.jsonl", folders)
    assert resolved == f"a, b:0.5,jsonl:1/2:{base / 'rows.jsonl'}"
    assert RESOLVERS["datasets"]("alpaca:1:tatsu-lab/alpaca", folders) == "alpaca:1:tatsu-lab/alpaca"
    assert RESOLVERS["datasets"]("a:1:b:c", folders) == "a:1:b:c"
    with pytest.raises(ArgumentError, match="dataset path"):
        RESOLVERS["datasets"]("a:1:../no.jsonl", folders)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("~nobody_of_this_name/out", "unknown home folder"),
        ("$HOME/out", "contains \\$HOME, which only a shell expands"),
        ("runs/${USER}", "contains \\$.USER., which only a shell expands"),
        ("", "has no name"),
    ],
)
def test_an_output_folder_that_cannot_be_meant(value, says, tmp_path):
    with pytest.raises(ArgumentError, match=says):
        RESOLVERS["output"](value, [tmp_path])


def test_an_input_below_an_unknown_home_folder(tmp_path):
    with pytest.raises(ArgumentError, match="unknown home folder"):
        RESOLVERS["model"]("~nobody_of_this_name/model", [tmp_path])


def test_a_sum_in_dollars_is_no_variable(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert RESOLVERS["output"]("cost-5$", [tmp_path]) == str(tmp_path / "cost-5$")


def test_a_template_is_a_file_or_jinja(folders):
    resolve = RESOLVERS["template"]
    base, current = folders
    (base / "own.jinja").write_text("{{ messages }}")
    assert resolve("own.jinja", folders) == str(base / "own.jinja")
    assert resolve("{% for m in messages %}{% endfor %}", folders).startswith("{% for")
    with pytest.raises(ArgumentError, match=f"template file 'none.jinja' does not exist; tried {base}"):
        resolve("none.jinja", folders)


@pytest.mark.parametrize("name", ["no.jsonl", "org/no.jsonl", "no.parquet"])
def test_a_data_file_that_is_missing_is_not_taken_for_a_dataset_of_the_hub(name, folders):
    with pytest.raises(ArgumentError, match=f"dataset path '{name}' does not exist"):
        RESOLVERS["datasets"](f"jsonl:1.0:{name}", folders)
    assert RESOLVERS["datasets"]("jsonl:1.0:org/rows", folders) == "jsonl:1.0:org/rows"
