"""Which datasets to mix, in every form a user may write it."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest

from alignment.data import parse_dataset
from alignment.data.raw.dataset_spec import parse_datasets
from alignment.errors import DataError

PKU = "PKU-SafeRLHF/train"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("alpaca", ("alpaca", {"proportion": 1.0})),
        ("alpaca:0.5", ("alpaca", {"proportion": 0.5})),
        ("alpaca:2", ("alpaca", {"proportion": 2.0})),
        ("alpaca:1/4", ("alpaca", {"proportion": 0.25})),
        ("alpaca:100/-1", ("alpaca", {"proportion": Fraction(-100)})),
        ("alpaca:0/-1", ("alpaca", {"proportion": 0.0})),
        ("alpaca::data/x", ("alpaca", {"proportion": 1.0, "path": "data/x"})),
        (" alpaca : 0.5 : ~/x ", ("alpaca", {"proportion": 0.5, "path": str(Path("~/x").expanduser())})),
    ],
)
def test_parse_dataset(text, expected):
    assert parse_dataset(text) == expected


@pytest.mark.parametrize("text", ["", ":0.5", "a:1:b:c", "a,,b", "alpaca,"])
def test_wrong_form_is_refused(text):
    with pytest.raises(DataError, match="name\\[:proportion"):
        parse_datasets(text)


@pytest.mark.parametrize("value", ["-1", "1/0", "-4/-1", "1.5/-1", "4/-2", "nan", "inf", "half", "1/2/3"])
def test_wrong_proportion_text_is_refused(value):
    with pytest.raises(DataError, match="must be a number >= 0"):
        parse_dataset(f"alpaca:{value}")


@pytest.mark.parametrize("value", [-1, -0.5, True, None, [1], float("nan"), Fraction(-1, 2)])
def test_wrong_proportion_value_is_refused(value):
    with pytest.raises(DataError, match="'alpaca'.*must be a number >= 0"):
        parse_datasets({"alpaca": value})


@pytest.mark.parametrize(
    "form",
    [
        "alpaca:0.75, PKU-SafeRLHF/train:3/-1:somewhere",
        {"alpaca": 0.75, PKU: {"proportion": Fraction(3, -1), "path": "somewhere"}},
        [("alpaca", 0.75), (PKU, {"proportion": "3/-1", "path": "somewhere"})],
        ["alpaca:3/4", f"{PKU}:3/-1:somewhere"],
        [{"name": "alpaca", "proportion": 0.75}, {"name": PKU, "proportion": "3/-1", "path": "somewhere"}],
        '[{"name": "alpaca", "proportion": 0.75}, "PKU-SafeRLHF/train:3/-1:somewhere"]',
        '{"alpaca": 0.75, "PKU-SafeRLHF/train": {"proportion": "3/-1", "path": "somewhere"}}',
    ],
)
def test_every_form_gives_the_same_specs(form):
    first, second = parse_datasets(form)
    assert (first.name, first.proportion, first.arguments) == ("alpaca", 0.75, {})
    assert (second.name, second.proportion, second.arguments) == (PKU, Fraction(-3), {"path": "somewhere"})


def test_defaults_are_for_the_datasets_that_take_them_and_what_a_dataset_says_wins():
    defaults = {"input_key": "q", "output_key": "s", "split": "train"}
    form = [{"path": "a.jsonl", "prompt_key": "p", "split": "dev"}, {"name": "jsonl", "path": "b.jsonl"}, "alpaca"]
    first, second, third, shipped = parse_datasets([*form, "packing-sft/train"], defaults=defaults)
    assert shipped.arguments == {}  # derived from jsonl, with a constructor of its own
    assert first.arguments == {"path": "a.jsonl", "prompt_key": "p", "split": "dev", "output_key": "s"}
    assert second.arguments == {"path": "b.jsonl", **defaults}
    assert (third.name, third.arguments) == ("alpaca", {})


def test_an_object_with_a_path_is_one_dataset_and_a_file_needs_no_name(tmp_path):
    (tmp_path / "a.jsonl").write_text("{}\n")
    path = str(tmp_path / "a.jsonl")
    for form in ({"path": "a.jsonl", "proportion": 0.5}, '{"path": "a.jsonl", "proportion": 0.5}', "a.jsonl:0.5"):
        (spec,) = parse_datasets(form, base_dir=tmp_path)
        assert (spec.name, spec.proportion, spec.arguments) == ("jsonl", 0.5, {"path": path})


@pytest.mark.parametrize(
    ("form", "says"),
    [('[{"name": "alpaca"', "not valid JSON"), ([{"name": 3}], "name must be text, got 3"), ([3], "neither")],
)
def test_lists_and_objects_that_are_wrong(form, says):
    with pytest.raises(DataError, match=says):
        parse_datasets(form)


def test_integer_proportion_and_alias():
    (spec,) = parse_datasets({"stanford-alpaca": 1})
    assert (spec.name, spec.label, spec.proportion) == ("alpaca", "alpaca", 1.0)


def test_a_dataset_with_proportion_zero_is_left_out():
    assert [spec.name for spec in parse_datasets("alpaca:0,jsonl:1:x")] == ["jsonl"]


@pytest.mark.parametrize("form", ["alpaca:0", {}, []])
def test_no_dataset_at_all_is_refused(form):
    with pytest.raises(DataError, match="no dataset"):
        parse_datasets(form)


def test_duplicates_are_refused_under_any_name():
    with pytest.raises(DataError, match="'stanford-alpaca'.*listed twice"):
        parse_datasets("alpaca,stanford-alpaca:0.5")


def test_one_name_with_two_paths_is_two_datasets():
    labels = [spec.label for spec in parse_datasets("jsonl::a.jsonl,jsonl::b.jsonl")]
    assert labels == ["jsonl:a.jsonl", "jsonl:b.jsonl"]


def test_unknown_name_suggests_a_near_one():
    with pytest.raises(DataError, match="unknown dataset 'alpacca'; did you mean .*'alpaca'"):
        parse_datasets("alpacca")


def test_entry_that_is_no_pair_is_refused():
    with pytest.raises(DataError, match="neither"):
        parse_datasets([("alpaca", 1, 2)])


def test_relative_path_is_looked_for_beside_the_json_first(tmp_path):
    (tmp_path / "a.jsonl").write_text("{}\n")
    (spec,) = parse_datasets("jsonl::a.jsonl", base_dir=tmp_path)
    assert spec.arguments["path"] == str(tmp_path / "a.jsonl")
    (spec,) = parse_datasets("jsonl::b.jsonl", base_dir=tmp_path)
    assert spec.arguments["path"] == "b.jsonl"


def test_specs_pass_unchanged_and_do_not_mix_with_other_forms():
    specs = parse_datasets("alpaca, jsonl::a.jsonl")
    assert parse_datasets(specs) == specs and parse_datasets(tuple(specs)) == specs
    with pytest.raises(DataError, match="dataset entry DatasetSpec.*is neither a name"):
        parse_datasets([specs[1], "alpaca"])


def test_rows_in_place_of_files_are_refused_with_what_to_do():
    rows = [{"prompt": "a", "answer": "b"}, {"prompt": "c", "answer": "d"}]
    with pytest.raises(DataError) as error:
        parse_datasets(rows)
    assert str(error.value) == (
        "dataset entry {'prompt': 'a', 'answer': 'b'}: has neither name nor path. Rows are read from files: if this is "
        "a row, write the rows to a .jsonl file, one object per line, and give its path"
    )
