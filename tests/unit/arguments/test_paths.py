"""What relative paths mean."""

from __future__ import annotations

import pytest

from alignment.arguments.paths import RESOLVERS, resolve_dataset_spec, resolve_input_path, resolve_model_name
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
    (current / "x").mkdir()
    assert resolve_input_path("x", base, "folder") == current / "x"
    (base / "x").mkdir()
    assert resolve_input_path("x", base, "folder") == base / "x"


def test_both_places_are_named_when_nothing_is_there(folders):
    base, current = folders
    with pytest.raises(ArgumentError) as error:
        resolve_input_path("a/b.json", base, "reward file")
    assert "reward file 'a/b.json'" in str(error.value)
    assert str(base / "a/b.json") in str(error.value)
    assert str(current / "a/b.json") in str(error.value)


def test_home_and_absolute_paths(folders, monkeypatch):
    base, current = folders
    monkeypatch.setenv("HOME", str(base))
    (base / "m").mkdir()
    assert resolve_input_path("~/m", current, "folder") == base / "m"
    assert resolve_input_path(str(base / "m"), current, "folder") == base / "m"


def test_model_is_a_folder_or_a_hub_name(folders):
    base, _ = folders
    (base / "org").mkdir()
    (base / "org" / "model").mkdir()
    assert resolve_model_name("org/model", base) == str(base / "org/model")
    assert resolve_model_name("other/model", base) == "other/model"
    assert resolve_model_name("gpt2", base) == "gpt2"
    for value in ("output/demo/sft", "./model", "../model", "/nowhere/model", "~/nowhere"):
        with pytest.raises(ArgumentError, match="not a hub name"):
            resolve_model_name(value, base)


def test_only_the_path_of_a_dataset_is_resolved(folders):
    base, current = folders
    (base / "rows.jsonl").touch()
    assert resolve_dataset_spec("a, b:0.5,jsonl:1/2:rows.jsonl", base) == f"a, b:0.5,jsonl:1/2:{base / 'rows.jsonl'}"
    assert resolve_dataset_spec("alpaca:1:tatsu-lab/alpaca", base) == "alpaca:1:tatsu-lab/alpaca"
    assert resolve_dataset_spec("a:1:b:c", base) == "a:1:b:c"
    with pytest.raises(ArgumentError, match="dataset path"):
        resolve_dataset_spec("a:1:../no.jsonl", base)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("~nobody_of_this_name/out", "home folder that is not known"),
        ("$HOME/out", "holds \\$HOME, which only a shell fills in"),
        ("runs/${USER}", "holds \\$.USER., which only a shell fills in"),
        ("", "has no name"),
    ],
)
def test_an_output_folder_that_cannot_be_meant(value, says, tmp_path):
    with pytest.raises(ArgumentError, match=says):
        RESOLVERS["output"](value, [tmp_path])


def test_an_input_below_an_unknown_home_folder(tmp_path):
    with pytest.raises(ArgumentError, match="home folder that is not known"):
        resolve_model_name("~nobody_of_this_name/model", tmp_path)


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
