"""Folders: which files are data, and of which split."""

from __future__ import annotations

import json
import sys
from types import ModuleType

import pytest

from alignment.data import RawDataset, SupervisedDataset
from alignment.data.raw.dataset_spec import parse_datasets
from alignment.data.sources.folders import choose_split, split_of
from alignment.data.sources.tables import find_files
from alignment.errors import DataError

TRAIN, EVAL = "train", ("validation", "test")


def _rows(count, text="a"):
    return [{"prompt": f"{text}{number}", "completion": "b"} for number in range(count)]


def _write(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in _rows(1, name)))


def _size(path, split=None):
    return len(RawDataset.load("jsonl", path=str(path), **({} if split is None else {"split": split})))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Return a folder of ``DatasetDict.save_to_disk``: train 10, test 4."""
    datasets = pytest.importorskip("datasets")
    folder = tmp_path_factory.mktemp("saved")
    parts = {"train": _rows(10), "test": _rows(4, "t")}
    made = datasets.DatasetDict({name: datasets.Dataset.from_list(rows) for name, rows in parts.items()})
    made.save_to_disk(str(folder))
    return folder


def test_a_saved_dataset_dict_is_read_by_split(saved):
    dataset = RawDataset.load("jsonl", path=str(saved), split=TRAIN)
    assert [sample["input"] for sample in dataset] == [f"a{number}" for number in range(10)]
    assert dataset.notes()[0] == f"split 'train' of {saved}"
    assert [_size(saved, split) for split in (EVAL, "test")] == [4, 4]
    with pytest.raises(DataError, match="has no split 'dev' .it has train, test.; choose one with split=NAME"):
        _size(saved, "dev")


def test_the_keys_of_a_run_read_train_and_eval(saved, tokenizer):
    sizes = [
        len(SupervisedDataset(parse_datasets(f"jsonl::{saved}", defaults={"split": split}), tokenizer))
        for split in (TRAIN, EVAL)
    ]
    assert sizes == [10, 4]


def test_caches_beside_saved_data_are_no_data(tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_list(_rows(10)).save_to_disk(str(tmp_path / "d"))
    datasets.load_from_disk(str(tmp_path / "d")).map(lambda row: {"prompt": row["prompt"] + "x"})
    assert list((tmp_path / "d").glob("cache-*.arrow"))
    assert _size(tmp_path / "d") == 10
    (tmp_path / "d" / "state.json").write_text('{"_data_files": [{"filename": "gone.arrow"}]}')
    with pytest.raises(DataError, match="state.json lists 'gone.arrow', which does not exist"):
        _size(tmp_path / "d")


def test_hidden_files_caches_and_descriptions_are_no_data(tmp_path):
    _write(tmp_path, "a.jsonl", ".hidden.jsonl", ".cache/b.jsonl", "__MACOSX/c.jsonl", "dataset_info.json")
    (tmp_path / "cache-1234.arrow").write_bytes(b"x")
    assert [file.name for file in find_files(tmp_path, None).files] == ["a.jsonl"]


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train.jsonl", "train"),
        ("train-00000-of-00002.parquet", "train"),
        ("train-00000-of-00002-0123456789abcdef.parquet", "train"),
        ("dev.json", "dev"),
        ("squad_train.jsonl", "squad_train"),
        ("train_sft-00000-of-00003.parquet", "train_sft"),
        ("train/part.jsonl", "train"),
        ("helpful/test.jsonl.gz", "test"),
        ("part-0.jsonl", None),
        ("testimonials.jsonl", None),
        ("training_data.jsonl", "training_data"),
    ],
)
def test_what_a_name_says(name, split, tmp_path):
    assert split_of((tmp_path / name).relative_to(tmp_path)) == split


@pytest.mark.parametrize(
    ("files", "split", "chosen"),
    [
        (["train.jsonl", "dev.jsonl"], EVAL, "dev.jsonl"),
        (["train.jsonl", "test.jsonl", "validation.jsonl"], EVAL, "validation.jsonl"),
        (["train.jsonl", "test.jsonl"], TRAIN, "train.jsonl"),
        (["train_sft.jsonl", "train_prefs.jsonl", "test_sft.jsonl"], "train_prefs", "train_prefs.jsonl"),
        (["train_sft.jsonl", "test_sft.jsonl"], EVAL, "test_sft.jsonl"),
        (["rows.jsonl"], EVAL, "rows.jsonl"),
    ],
)
def test_files_are_chosen_by_split(tmp_path, files, split, chosen):
    _write(tmp_path, *files)
    (sample,) = RawDataset.load("jsonl", path=str(tmp_path), split=split)
    assert sample["input"] == f"{chosen}0"


@pytest.mark.parametrize(
    ("files", "split", "says"),
    [
        (["train_sft.jsonl", "train_gen.jsonl"], TRAIN, "holds train_gen and train_sft for split 'train'; choose one"),
        (["train.jsonl", "extra.jsonl"], TRAIN, "files of a split and files of no split .extra.jsonl.; name the file"),
        (["train.jsonl"], EVAL, "has no split 'validation' or 'test' .it has train."),
    ],
)
def test_what_is_not_clear_is_refused(tmp_path, files, split, says):
    _write(tmp_path, *files)
    with pytest.raises(DataError, match=says):
        _size(tmp_path, split)


def test_split_must_be_a_name(tmp_path):
    _write(tmp_path, "train.jsonl")
    with pytest.raises(DataError, match="split must be names, got .3."):
        _size(tmp_path, [3])


def test_a_hub_dataset_is_read_by_split(monkeypatch):
    hub, asked = ModuleType("datasets"), []
    hub.get_dataset_split_names = lambda name: ["train", "test"]
    hub.load_dataset = lambda name, split: asked.append((name, split)) or _rows(3)
    monkeypatch.setitem(sys.modules, "datasets", hub)
    assert [_size("me/rows", split) for split in (None, TRAIN, EVAL, "train_sft")] == [3, 3, 3, 3]
    assert asked == [("me/rows", name) for name in ("train", "train", "test", "train_sft")]
    with pytest.raises(DataError, match="me/rows on the hub has no split 'dev' or 'eval_x' .it has train, test."):
        choose_split(["train", "test"], ("dev", "eval_x"), "me/rows on the hub")
