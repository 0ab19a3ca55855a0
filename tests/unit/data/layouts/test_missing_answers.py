"""Rows in which an answer or a turn is missing say which, and on_bad_row decides what becomes of them."""

from __future__ import annotations

import pytest

from alignment.data import PreferenceDataset, RawDataset, SupervisedDataset
from alignment.data.encode import EncodeOptions
from alignment.errors import DataError

USER, SAYS_B = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
PAIR = {"prompt": "a", "chosen": "b", "rejected": "d"}
STOP = EncodeOptions(on_bad_row="error")
TALK = "\n\nHuman: a\n\nAssistant: b"
SYSTEM_LAST = [USER, SAYS_B, {"role": "system", "content": "c"}]


@pytest.mark.parametrize(
    ("row", "reason", "says"),
    [
        ({"chosen": TALK, "rejected": "\n\nHuman: a"}, "broken_dialogue", "rejected holds no assistant turn"),
        ({"chosen": "\n\nHuman: a", "rejected": "\n\nHuman: a"}, "broken_dialogue", "chosen holds no assistant turn"),
        ({"chosen": [USER, SAYS_B], "rejected": []}, "empty_answer", "rejected is empty"),
        ({"prompt": "a", "chosen": [], "rejected": []}, "empty_answer", "chosen is empty"),
        ({"chosen": [USER, SAYS_B], "rejected": [USER]}, "broken_dialogue", "rejected ends with a turn of the user"),
        (
            {"chosen": TALK, "rejected": TALK + "\n\nHuman: c"},
            "broken_dialogue",
            "rejected ends with a turn of the user",
        ),
    ],
)
def test_a_pair_without_an_answer_is_a_bad_row_that_says_which(write_jsonl, tokenizer, row, reason, says):
    path = write_jsonl([PAIR, row])
    dataset = PreferenceDataset(f"jsonl::{path}", tokenizer)
    assert len(dataset) == 1 and dataset.ledger.total(reason) == 1
    with pytest.raises(DataError, match=f"line 2.*{says}.*set on_bad_row to drop"):
        PreferenceDataset(f"jsonl::{path}", tokenizer, options=STOP)


@pytest.mark.parametrize(
    ("turns", "reason", "says"),
    [
        ([USER, SAYS_B, USER], "no_turn_to_train_on", "the conversation ends with the user's turn"),
        ([USER], "no_turn_to_train_on", "the conversation ends with the user's turn"),
        (SYSTEM_LAST, "broken_dialogue", "the conversation ends with a system message"),
        ([], "broken_dialogue", "column 'conversations' holds no messages"),
        ([{"from": "human", "value": "a"}, {"from": "gpt", "value": None}], "null_field", "message 1: 'value' is null"),
        ([USER, {"role": "assistant", "content": None}], "null_field", "message 1: 'content' is null"),
        ([{"role": "user", "content": None}, SAYS_B], "null_field", "message 0: 'content' is null"),
        ([{"human": "a", "assistant": None}], "null_field", "message 0: 'assistant' is null"),
    ],
)
def test_a_conversation_without_an_answer_is_a_bad_row_that_says_why(write_jsonl, tokenizer, turns, reason, says):
    path = write_jsonl([{"conversations": [USER, SAYS_B]}, {"conversations": turns}])
    dataset = SupervisedDataset(f"jsonl::{path}", tokenizer)
    assert len(dataset) == 1 and dataset.ledger.total(reason) == 1
    with pytest.raises(DataError, match=f"line 2.*{says}.*set on_bad_row to drop"):
        SupervisedDataset(f"jsonl::{path}", tokenizer, options=STOP)


def test_nulls_that_a_table_fills_in_are_no_null_texts(write_jsonl):
    turns = [{"human": "a", "assistant": "b", "content": None, "question": None}]
    call = {"role": "assistant", "content": None, "tool_calls": [{"name": "f"}]}
    rows = [{"messages": turns}, {"messages": [USER, call, SAYS_B]}]
    filled, called = RawDataset.load("jsonl", path=str(write_jsonl(rows)))
    assert filled == {"dialogue": ["a", "b"]} and called["messages"][1]["content"] == ""


@pytest.mark.parametrize("spelling", ["role content", "from value"])
def test_a_null_text_of_a_system_or_tool_turn_is_empty(write_jsonl, spelling):
    role, text = spelling.split()
    call = {role: "assistant", text: None, "tool_calls": [{"name": "f"}]}
    turns = [{role: "system", text: None}, {role: "user", text: "a"}, call, {role: "tool", text: None}]
    (row,) = RawDataset.load("jsonl", path=str(write_jsonl([{"messages": [*turns, {role: "assistant", text: "b"}]}])))
    told = [(message["role"], message["content"]) for message in row["messages"]]
    assert told == [("system", ""), ("user", "a"), ("assistant", ""), ("tool", ""), ("assistant", "b")]
