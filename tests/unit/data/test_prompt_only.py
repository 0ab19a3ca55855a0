"""Prompts: each once, labelled, padded on the left."""

from __future__ import annotations

import pytest

from alignment.data import PromptOnlyDataset
from alignment.data.encode import EncodeOptions
from alignment.errors import DataError


def test_sample(make_dataset, tokenizer):
    dataset = PromptOnlyDataset(make_dataset([{"input": "hi", "answer": "a"}, {"input": ["a", "b", "c"]}]), tokenizer)
    first, second = dataset
    assert (first["sample_id"], first["label"], first["raw_input"]) == (0, "a", "hi")
    assert first["prompt_text"] == "BEGINNING OF CONVERSATION: USER: hi ASSISTANT:"
    assert first["input_ids"].tolist() == tokenizer(first["prompt_text"])["input_ids"]
    assert (second["label"], second["raw_input"]) == (None, ["a", "b", "c"])


def test_the_last_of_equal_prompts_is_kept(make_dataset, tokenizer):
    rows = [{"input": word, "answer": str(number)} for number, word in enumerate("abacb")]
    dataset = PromptOnlyDataset(make_dataset(rows), tokenizer)
    assert [(sample["raw_input"], sample["label"], sample["sample_id"]) for sample in dataset] == [
        ("a", "2", 2),
        ("c", "3", 3),
        ("b", "4", 4),
    ]
    assert dataset.ledger.total("duplicate_prompt") == 2
    assert dataset.ledger.rows()[0].examples == (0, 1)
    assert dict(dataset.ledger.sizes())["test-rows"] == {"selected": 5, "used": 3}


def test_a_proportion_above_one_adds_nothing(make_dataset, tokenizer):
    name = make_dataset([{"input": word} for word in "abc"])
    dataset = PromptOnlyDataset({name: 2.0}, tokenizer)
    assert [sample["raw_input"] for sample in dataset] == ["a", "b", "c"]
    assert dataset.ledger.total("duplicate_prompt") == 3


def test_collator_pads_left(make_dataset, tokenizer):
    dataset = PromptOnlyDataset(make_dataset([{"input": "a b c"}, {"input": "a"}]), tokenizer)
    batch = dataset.collate(list(dataset))
    assert batch["attention_mask"][1].tolist() == [False, False] + [True] * batch["lengths"][1]
    assert batch["input_ids"][1, 2:].tolist() == dataset[1]["input_ids"].tolist()
    assert (batch["sample_ids"].tolist(), batch["labels"]) == ([0, 1], [None, None])


@pytest.mark.parametrize("row", [{"input": ""}, {"input": ["a", "b", " "]}])
def test_empty_prompts(make_dataset, tokenizer, row):
    name = make_dataset([{"input": "a"}, row])
    dataset = PromptOnlyDataset(name, tokenizer)
    assert len(dataset) == 1 and dataset.ledger.total("empty_prompt") == 1
    with pytest.raises(DataError, match="row 1.*empty prompt"):
        PromptOnlyDataset(name, tokenizer, options=EncodeOptions(on_bad_row="error"))


@pytest.mark.parametrize(
    ("side", "kept"), [("left", "USER : a b c ASSISTANT :"), ("right", "BEGINNING OF CONVERSATION")]
)
def test_long_prompts_are_cut_on_the_named_side(make_dataset, tokenizer, side, kept):
    name = make_dataset([{"input": "a b c"}])
    dataset = PromptOnlyDataset(name, tokenizer, options=EncodeOptions(max_prompt_length=7, on_overlong=side))
    assert kept in tokenizer.decode(dataset[0]["input_ids"]) and len(dataset[0]["input_ids"]) == 7
    assert dataset.ledger.total(f"truncated_{side}") == 1


def test_long_prompts_are_dropped_or_refused(make_dataset, tokenizer):
    name = make_dataset([{"input": "a"}, {"input": "a b c"}])
    dataset = PromptOnlyDataset(name, tokenizer, options=EncodeOptions(max_prompt_length=10))
    assert len(dataset) == 1 and dataset.ledger.total("dropped_overlong") == 1
    with pytest.raises(DataError, match="row 1: 11 prompt tokens.*max_prompt_length 10"):
        PromptOnlyDataset(name, tokenizer, options=EncodeOptions(max_prompt_length=10, on_overlong="error"))


def test_missing_input(make_dataset, tokenizer):
    with pytest.raises(DataError, match="row 0: missing 'input'.*prompt-only.*present: answer"):
        PromptOnlyDataset(make_dataset([{"answer": "a"}]), tokenizer)
