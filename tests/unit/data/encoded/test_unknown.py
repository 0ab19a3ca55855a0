"""Text that the tokenizer does not know is counted, shown, and named as the cause of equal answers."""

from __future__ import annotations

import pytest

from alignment.data import PreferenceDataset, PromptOnlyDataset, SupervisedDataset
from alignment.data.encode import EncodeOptions
from alignment.data.sources.packing import SHIPPED, TOKENIZER
from alignment.data.tokenizer import unknown_id
from alignment.errors import DataError
from alignment.models.tokenizer.tokenizer import load_tokenizer

PLAIN = EncodeOptions(template="{}:")
PAIR = {"input": "a b", "answer": "c", "other_answer": "d", "better": True}


@pytest.fixture
def knowing(tokenizer):
    """The word tokenizer, which names its unknown token."""
    tokenizer.unk_token_id = 3
    return tokenizer


def test_rows_with_unknown_text_are_counted_and_described(make_dataset, knowing):
    asked = {"a b": "c", "a": "zebra d", "lion": "c tiger"}
    rows = [{"input": prompt, "answer": answer} for prompt, answer in asked.items()]
    dataset = SupervisedDataset(make_dataset(rows), knowing, options=PLAIN)
    assert [row._asdict() for row in dataset.ledger.rows()] == [
        {"dataset": "test-rows", "reason": "unknown_tokens", "effect": "kept", "count": 2, "examples": (1, 2)}
    ]
    assert dataset.describe_unknown() == (
        "the tokenizer does not know all the text of 2 of 3 rows: 3 of 15 tokens (20.0%) are <unk>, for example in "
        "'a : <unk> d </s>'"
    )


def test_nothing_is_said_where_every_word_is_known(make_dataset, knowing):
    dataset = PromptOnlyDataset(make_dataset([{"input": "a b"}]), knowing, options=PLAIN)
    assert dataset.describe_unknown() is None and dataset.ledger.total() == 0


def test_both_sides_of_a_pair_are_counted(make_dataset, knowing):
    rows = [{**PAIR, "other_answer": "lion"}]
    dataset = PreferenceDataset(make_dataset(rows), knowing, options=PLAIN)
    said = dataset.describe_unknown()
    assert "1 of 1 rows: 1 of 10 tokens (10.0%) are <unk>, for example in 'a b : <unk> </s>'" in said


def test_answers_that_only_unknown_text_tells_apart_are_named_so(make_dataset, knowing):
    rows = [PAIR, {**PAIR, "answer": "4", "other_answer": "5"}]
    name = make_dataset(rows)
    dataset = PreferenceDataset(name, knowing, options=PLAIN)
    assert len(dataset) == 1 and dataset.ledger.summary() == "unknown_difference 1"
    stop = EncodeOptions(template="{}:", on_bad_row="error")
    with pytest.raises(DataError, match="row 1: the tokenizer does not know the text in which the answers '4' and '5'"):
        PreferenceDataset(name, knowing, options=stop)
    with pytest.raises(DataError, match="unknown_difference 1 .*; unknown_difference: the answers differ only in text"):
        PreferenceDataset(make_dataset(rows[1:], "unknown"), knowing, options=PLAIN)


def test_an_end_token_that_stands_for_unknown_text_too_says_nothing(tokenizer):
    """GPT-2 names <|endoftext|> as all three, and it ends every answer."""
    tokenizer.unk_token_id = tokenizer.eos_token_id
    assert unknown_id(tokenizer) is None


@pytest.mark.parametrize("data", ["sft", "preference", "prompts"])
def test_the_shipped_tokenizer_knows_the_shipped_data(data):
    tokenizer = load_tokenizer(TOKENIZER)
    kind = {"sft": SupervisedDataset, "preference": PreferenceDataset, "prompts": PromptOnlyDataset}[data]
    dataset = kind(f"jsonl::{SHIPPED / f'{data}_test.jsonl'}", tokenizer, options=EncodeOptions(template="tokenizer"))
    assert dataset.ledger.total("unknown_tokens") == 0
    assert unknown_id(tokenizer) == tokenizer.vocab["<unk>"]
