"""Supervised samples: labels exactly on the answers."""

from __future__ import annotations

import numpy as np
import pytest

from alignment.data import SupervisedDataset
from alignment.data.encode import EncodeOptions
from alignment.data.encoded.supervised import IGNORE_INDEX
from alignment.errors import DataError

EOS = 2


def targets(sample, tokenizer) -> str:
    return tokenizer.decode(sample["input_ids"][sample["labels"] != IGNORE_INDEX], skip_special_tokens=False)


def test_labels_are_the_answer_with_eos(make_dataset, tokenizer):
    dataset = SupervisedDataset(make_dataset([{"input": "hi", "answer": "a b"}]), tokenizer)
    (sample,) = dataset
    assert targets(sample, tokenizer) == "a b </s>"
    assert sample["input_ids"].dtype == sample["labels"].dtype == np.int64
    assert dataset.ledger.rows() == []


def test_turns_before_the_answer_are_not_targets_but_a_dialogue_is(make_dataset, tokenizer):
    turns = SupervisedDataset(make_dataset([{"input": ["a", "b", "c"], "answer": "d"}], "turns"), tokenizer)
    dialogue = SupervisedDataset(make_dataset([{"dialogue": ["a", "b", "c", "d"]}], "dialogue"), tokenizer)
    assert turns[0]["input_ids"].tolist() == dialogue[0]["input_ids"].tolist()
    assert targets(turns[0], tokenizer) == "d </s>"
    assert targets(dialogue[0], tokenizer) == "b </s> d </s>"


def test_collator_pads_right_and_masks_by_length_even_when_pad_is_eos(make_dataset, make_tokenizer):
    tokenizer = make_tokenizer(has_pad=False)
    rows = [{"input": "hi", "answer": "a"}, {"input": "hi", "answer": "a b c"}]
    dataset = SupervisedDataset(make_dataset(rows), tokenizer)
    batch = dataset.collate([dataset[0], dataset[1]])
    assert batch["input_ids"].shape == batch["labels"].shape == batch["attention_mask"].shape
    assert batch["lengths"].tolist() == batch["attention_mask"].sum(axis=1).tolist()
    last = batch["lengths"][0] - 1
    assert batch["input_ids"][0, last] == EOS and batch["attention_mask"][0, last]
    assert batch["input_ids"][0, last + 1 :].tolist() == [EOS, EOS]
    assert batch["labels"][0, last + 1 :].tolist() == [IGNORE_INDEX] * 2
    assert batch["labels"][0, last] == EOS


def test_right_cut_has_no_eos_and_left_cut_keeps_the_answer(make_dataset, tokenizer):
    name = make_dataset([{"input": "hi", "answer": "a b c d"}])
    full = SupervisedDataset(name, tokenizer)[0]
    limit = len(full["input_ids"]) - 2
    for side, reason in (("right", "truncated_right"), ("left", "truncated_left")):
        options = EncodeOptions(max_length=limit, on_overlong=side)
        dataset = SupervisedDataset(name, tokenizer, options=options)
        assert dataset.ledger.total(reason) == 1
        assert len(dataset[0]["input_ids"]) == limit
        assert targets(dataset[0], tokenizer) == ("a b c" if side == "right" else "a b c d </s>")


def test_overlong_rows_are_dropped_and_counted_or_refused(make_dataset, tokenizer):
    name = make_dataset([{"input": "hi", "answer": "a"}, {"input": "hi", "answer": "a " * 50}])
    dataset = SupervisedDataset(name, tokenizer, options=EncodeOptions(max_length=20))
    assert len(dataset) == 1
    assert dataset.ledger.as_dict()["rows"][0] == {
        "dataset": name, "reason": "dropped_overlong", "effect": "dropped", "count": 1, "examples": [1],
    }  # fmt: skip
    with pytest.raises(DataError, match="row 1: 9 prompt tokens and 51 answer tokens.*max_length 20"):
        SupervisedDataset(name, tokenizer, options=EncodeOptions(max_length=20, on_overlong="error"))


BAD = [
    ({"input": " ", "answer": "a"}, "empty_prompt"),
    ({"input": ["a", "b", ""], "answer": "a"}, "empty_prompt"),
    ({"input": "a", "answer": ""}, "empty_answer"),
    ({"input": "a", "answer": "</s>"}, "empty_answer"),
    ({"dialogue": ["a", "b", "c", "  "]}, "empty_answer"),
    ({"dialogue": ["a", "b", "", "d"]}, "empty_prompt"),
]


@pytest.mark.parametrize(("row", "reason"), BAD)
def test_bad_rows_are_dropped_and_counted_or_refused(make_dataset, tokenizer, row, reason):
    name = make_dataset([{"input": "a", "answer": "b"}, row])
    dataset = SupervisedDataset(name, tokenizer)
    assert len(dataset) == 1 and dataset.ledger.total(reason) == dataset.ledger.total() == 1
    with pytest.raises(DataError, match=f"row 1.*{reason.replace('_', ' ')}"):
        SupervisedDataset(name, tokenizer, options=EncodeOptions(on_bad_row="error"))


def test_short_answers_are_bad_rows_when_a_minimum_is_set(make_dataset, tokenizer):
    name = make_dataset([{"input": "a", "answer": "b c"}, {"input": "a", "answer": "b"}])
    dataset = SupervisedDataset(name, tokenizer, options=EncodeOptions(min_answer_tokens=2))
    assert len(dataset) == 1 and dataset.ledger.total("short_answer") == 1


def test_boundary_merges_are_counted_and_the_mask_does_not_shift(make_dataset, merging_tokenizer):
    name = make_dataset([{"input": "hi", "answer": "a b"}, {"input": "hi", "answer": "b a"}])
    dataset = SupervisedDataset(name, merging_tokenizer)
    assert dataset.ledger.total("boundary_retokenized") == 1
    assert [targets(sample, merging_tokenizer) for sample in dataset] == ["a b </s>", "b a </s>"]


def test_missing_and_contradictory_fields_are_refused(make_dataset, tokenizer):
    with pytest.raises(DataError, match="row 0: missing 'answer'.*supervised.*present: input"):
        SupervisedDataset(make_dataset([{"input": "a"}]), tokenizer)
    with pytest.raises(DataError, match="not 'input' and 'dialogue'"):
        SupervisedDataset(make_dataset([{"input": "a", "dialogue": ["a", "b"]}]), tokenizer)


def test_no_row_left_is_an_error_with_the_account(make_dataset, tokenizer):
    with pytest.raises(DataError, match="no row of test-rows can be used.*empty_answer 2"):
        SupervisedDataset(make_dataset([{"input": "a", "answer": ""}] * 2), tokenizer)


TURNS = (("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"))
TALK = {"messages": [{"role": role, "content": text} for role, text in TURNS]}


@pytest.mark.parametrize(
    ("targets_", "expected"),
    [
        ("assistant", "b </s> d </s>"),
        ("last", "d </s>"),
        ("all", "BEGINNING OF CONVERSATION : USER : a ASSISTANT : b </s> USER : c ASSISTANT : d </s>"),
    ],
)
def test_what_of_a_conversation_is_trained_on(make_dataset, tokenizer, targets_, expected):
    dataset = SupervisedDataset(make_dataset([TALK]), tokenizer, options=EncodeOptions(targets=targets_))
    assert targets(dataset[0], tokenizer).removeprefix("<s> ") == expected


def test_the_last_turn_that_is_trained_on_is_not_one_that_the_row_excludes(make_dataset, tokenizer):
    messages = [*TALK["messages"][:3], {**TALK["messages"][3], "train": False}]
    dataset = SupervisedDataset(
        make_dataset([{"messages": messages}]), tokenizer, options=EncodeOptions(targets="last")
    )
    assert targets(dataset[0], tokenizer) == "b </s>"


def test_plain_text_is_trained_on_from_its_first_token_without_a_template(make_dataset, tokenizer):
    name = make_dataset([{"input": "a b c"}, {"input": "a b ", "answer": "c"}, {"input": " "}])
    dataset = SupervisedDataset(name, tokenizer, options=EncodeOptions(targets="text", template="tokenizer"))
    assert [targets(sample, tokenizer).removeprefix("<s> ") for sample in dataset] == ["a b c </s>"] * 2
    assert all((sample["labels"] == sample["input_ids"]).all() for sample in dataset)
    assert dataset.ledger.total("empty_prompt") == 1


def test_plain_text_is_cut_right_and_never_left(make_dataset, tokenizer):
    name, limits = make_dataset([{"input": "a b c d"}, {"input": "a"}]), {"targets": "text", "max_length": 3}
    cut = SupervisedDataset(name, tokenizer, options=EncodeOptions(on_overlong="right", **limits))
    assert [len(sample["input_ids"]) for sample in cut] == [3, len(cut[1]["input_ids"])]
    left = SupervisedDataset(name, tokenizer, options=EncodeOptions(on_overlong="left", **limits))
    assert len(left) == 1 and left.ledger.total("dropped_overlong") == 1


def test_a_conversation_is_no_plain_text(make_dataset, tokenizer):
    with pytest.raises(DataError, match="row 0: pretrain_mode trains on plain text.*input_key.*loss_on=all"):
        SupervisedDataset(make_dataset([TALK]), tokenizer, options=EncodeOptions(targets="text"))
