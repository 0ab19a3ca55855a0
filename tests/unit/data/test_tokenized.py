"""Mixing, resizing and splitting of tokenised datasets, and errors of foreign dataset classes."""

from __future__ import annotations

import pytest

from alignment.data import RawDataset, SupervisedDataset
from alignment.errors import DataError

WORDS = "abcdefgh"


@pytest.fixture
def name(make_dataset):
    return make_dataset([{"input": "hi", "answer": word} for word in WORDS], "words")


def answers(dataset, tokenizer) -> str:
    return "".join(tokenizer.decode(sample["input_ids"][-2:-1]) for sample in dataset)


def test_rows_come_in_mixed_order(name, make_dataset, tokenizer):
    other = make_dataset([{"input": "hi", "answer": word} for word in "xyz"], "letters")
    dataset = SupervisedDataset({other: 1, name: 0.5}, tokenizer, seed=42)
    assert answers(dataset, tokenizer) == "xyz" + "hacb"
    assert answers(SupervisedDataset({other: 1, name: 0.5}, tokenizer, seed=42), tokenizer) == "xyzhacb"
    assert dict(dataset.ledger.sizes()) == {other: {"selected": 3, "used": 3}, name: {"selected": 4, "used": 4}}


def test_oversampling_counts_every_appearance(make_dataset, tokenizer):
    name = make_dataset([{"input": "a", "answer": "b"}, {"input": "a", "answer": ""}])
    dataset = SupervisedDataset({name: 3}, tokenizer)
    assert len(dataset) == 3 and dataset.ledger.total("empty_answer") == 3
    assert dict(dataset.ledger.sizes())[name] == {"selected": 6, "used": 3}


@pytest.mark.parametrize(("size", "expected"), [(3, "abc"), (8, WORDS), (11, WORDS + "abc")])
def test_resize(name, tokenizer, size, expected):
    dataset = SupervisedDataset(name, tokenizer)
    dataset.resize(size)
    assert answers(dataset, tokenizer) == expected
    with pytest.raises(DataError, match="resized to 0"):
        dataset.resize(0)


def test_split(name, tokenizer):
    dataset = SupervisedDataset(name, tokenizer)
    train, test = dataset.split_train_test(0.25, shuffle=False)
    assert (answers(train, tokenizer), answers(test, tokenizer)) == ("abcdef", "gh")
    assert train.ledger is dataset.ledger and len(dataset) == 8
    train, test = dataset.split_train_test(0.25)
    assert sorted(answers(train, tokenizer) + answers(test, tokenizer)) == list(WORDS)
    assert answers(train, tokenizer) == answers(dataset.split_train_test(0.25, seed=42)[0], tokenizer)


def test_wrong_type_from_any_dataset_names_it_and_the_row(make_dataset, tokenizer):
    name = make_dataset([{"input": "a", "answer": "b"}, {"input": "a", "answer": 5}])
    with pytest.raises(DataError, match="dataset 'test-rows', row 1: field 'answer' must be a string, got int 5"):
        SupervisedDataset(name, tokenizer)


def test_an_exception_in_a_dataset_class_is_reported_with_the_row(tokenizer):
    class Broken(RawDataset):
        NAME = "test-broken"

        def __init__(self, path=None):
            if path == "nowhere":
                raise OSError("disk on fire")

        def __getitem__(self, index):
            return {"input": {}["question"]}

        def __len__(self):
            return 2

    with pytest.raises(DataError, match="'test-broken', row 0 could not be read: KeyError: 'question'"):
        SupervisedDataset("test-broken", tokenizer)
    with pytest.raises(DataError, match="'test-broken' with arguments.*nowhere.*OSError: disk on fire"):
        SupervisedDataset("test-broken:1:nowhere", tokenizer)


def test_empty_datasets_and_shares_are_refused(make_dataset, name, tokenizer):
    with pytest.raises(DataError, match="'test-none' holds no rows"):
        SupervisedDataset(make_dataset([], "none"), tokenizer)
    with pytest.raises(DataError, match="proportion 0.01 of 8 rows rounds to 0 rows"):
        SupervisedDataset({name: 0.01}, tokenizer)


def test_constructor_arguments_reach_the_dataset(write_jsonl, tokenizer):
    path = write_jsonl([{"q": "a", "s": "b"}])
    keys = {"proportion": 1, "path": str(path), "input_key": "q", "output_key": "s"}
    assert len(SupervisedDataset({"jsonl": keys}, tokenizer)) == 1


def test_missing_path_names_both_folders(tmp_path, tokenizer):
    with pytest.raises(DataError, match=f"'none.jsonl'.*current folder: .*nor found in {tmp_path}"):
        SupervisedDataset("jsonl::none.jsonl", tokenizer, base_dir=tmp_path)


@pytest.mark.parametrize("proportion", ["1e18", "1000000000000/-1", 1e300])
def test_a_proportion_that_asks_for_more_rows_than_there_can_be_is_refused(make_dataset, tokenizer, proportion):
    name = make_dataset([{"input": "a", "answer": "b"}] * 2)
    with pytest.raises(DataError, match=r"'test-rows': proportion .* asks for .* rows .at most 100,000,000."):
        SupervisedDataset({name: proportion}, tokenizer)


def test_a_file_without_a_registered_name_is_read_as_rows(write_jsonl, tokenizer):
    path = write_jsonl([{"question": "a", "solution": "b"}])
    assert len(SupervisedDataset(str(path), tokenizer)) == 1
    with pytest.raises(DataError, match="unknown dataset"):
        SupervisedDataset("x" * 5000, tokenizer)


@pytest.mark.parametrize("use", [len, lambda rows: rows[0], list, lambda rows: rows.ledger.total("empty_answer")])
def test_a_lazy_dataset_is_read_by_whatever_is_asked_first(use, make_dataset, tokenizer):
    name = make_dataset([{"input": "a", "answer": "b"}, {"input": "c", "answer": ""}], "lazy")
    eager, lazy = (SupervisedDataset(name, tokenizer, is_lazy) for is_lazy in (False, True))
    assert str(use(lazy)) == str(use(eager))
