"""Datasets in text, list and object form, and the keys about columns: from the file and the command line to rows."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace

import pytest

from alignment.arguments.keys.columns import ColumnArguments
from alignment.data.raw.dataset_spec import parse_datasets
from alignment.data.raw.layouts.mapping import KEYS
from alignment.errors import ArgumentError
from alignment.runs import datasets as data_start
from alignment.runs.datasets import column_defaults
from alignment.trainers.registered import TRAINERS

COMMON = {"model_name_or_path": "org/model", "output_dir": "out"}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the rows ``a.jsonl``; the current folder is another one."""
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "a.jsonl").write_text("{}\n")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "config"


def _parse(folder, values, *argv):
    (folder / "sft.json").write_text(json.dumps({**COMMON, **values}))
    return TRAINERS["sft"].parse([str(folder / "sft.json"), *argv])


ENTRY = {"path": "a.jsonl", "input_key": "q", "proportion": 0.5}


@pytest.mark.parametrize(
    "form", [[ENTRY], {"jsonl": ENTRY}, ENTRY, json.dumps([ENTRY]), [["jsonl", ENTRY]], json.dumps({"jsonl": ENTRY})]
)
def test_every_form_in_the_file_names_the_file_beside_it(folder, form):
    parsed = _parse(folder, {"train_datasets": form})
    (spec,) = parse_datasets(parsed.offline.train_datasets, base_dir=parsed.base_dir)
    assert (spec.name, spec.proportion) == ("jsonl", 0.5)
    assert spec.arguments == {"path": str(folder / "a.jsonl"), "input_key": "q"}


def test_the_command_line_takes_the_json_text(folder):
    argv = ["--train_datasets", json.dumps([ENTRY, "alpaca:2"])]
    parsed = _parse(folder, {"train_datasets": "alpaca"}, *argv)
    specs = parse_datasets(parsed.offline.train_datasets, base_dir=parsed.base_dir)
    assert [(spec.name, spec.proportion) for spec in specs] == [("jsonl", 0.5), ("alpaca", 2.0)]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"train_datasets": [{"path": "none.jsonl/x/y"}]}, "dataset path 'none.jsonl/x/y' does not exist"),
        ({"train_datasets": "[{"}, "must be valid JSON"),
        ({"train_datasets": 3}, "expected text, got 3"),
    ],
)
def test_wrong_forms_are_refused_with_the_key(folder, values, says):
    with pytest.raises(ArgumentError, match=f"train_datasets: .*{says}"):
        _parse(folder, values)


def test_a_key_that_comes_twice_in_an_inner_object_is_refused(folder):
    (folder / "sft.json").write_text('{"train_datasets": [{"path": "a", "path": "b"}]}')
    with pytest.raises(ArgumentError, match="sft.json, train_datasets: 'path' is given more than once in one"):
        TRAINERS["sft"].parse([str(folder / "sft.json")])


def test_every_key_about_columns_reaches_the_datasets_that_take_it(folder):
    names = {f.name for f in dataclasses.fields(ColumnArguments) if not f.name.endswith("_split")}
    given = {name: f"c-{name}" for name in sorted(names - {"margin_key", "attributes_key"})}
    given["ignored_columns"] = "x, y"
    argv = [word for name, value in given.items() for word in (f"--{name}", value)]
    parsed = _parse(folder, {"train_datasets": "a.jsonl", "eval_split": "dev"}, *argv)
    expected = {**given, "ignored_columns": ("x", "y")}
    for role, split in (("train", "train"), ("eval", "dev")):
        defaults = column_defaults(SimpleNamespace(parsed=parsed), role)
        (spec,) = parse_datasets(parsed.offline.train_datasets, base_dir=folder, defaults=defaults)
        assert spec.arguments == {"path": str(folder / "a.jsonl"), "split": split, **expected}


def test_prompts_and_answers_have_the_names_of_other_systems(folder):
    argv = ["--prompt_key", "src", "--response_key", "tgt"]
    columns = _parse(folder, {"train_datasets": "alpaca"}, *argv).columns
    assert (columns.input_key, columns.output_key) == ("src", "tgt")


def test_without_keys_only_the_split_is_said(folder):
    parsed = _parse(folder, {"train_datasets": "alpaca"})
    start = SimpleNamespace(parsed=parsed)
    assert column_defaults(start, "train") == {"split": "train"}
    assert column_defaults(start, "eval") == {"split": ("validation", "test")}


def test_keys_that_no_dataset_takes_are_told(folder, monkeypatch):
    parsed = _parse(folder, {"train_datasets": "packing-sft/train"}, "--input_key", "q", "--layout", "alpaca")
    start = SimpleNamespace(parsed=parsed)
    told = []
    monkeypatch.setattr(data_start.log, "warn", told.append)
    for options, expected in ((frozenset(), ["input_key, layout has no effect"]), (frozenset(KEYS) | {"layout"}, [])):
        told.clear()
        data_start._warn_unused_keys(start, [SimpleNamespace(options_taken=options)])
        assert [line.split(":")[0] for line in told] == expected
