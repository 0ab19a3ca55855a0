"""Evaluation rows that training holds too are counted by their prompts."""

from __future__ import annotations

import numpy as np
import pytest

from alignment.data import PreferenceDataset, PromptOnlyDataset, SupervisedDataset
from alignment.data.encode import EncodeOptions
from alignment.data.encoded.overlap import describe_overlap

CONCLUSION = ": the evaluation does not show how the model does on new prompts"
ANSWERED = [{"input": "a", "answer": "b"}, {"input": "c", "answer": "d"}, {"input": "e", "answer": "f"}]
PAIRS = [{**row, "other_answer": "g", "better": True} for row in ANSWERED]


@pytest.mark.parametrize(
    ("kind", "rows", "expected"),
    [
        (SupervisedDataset, ANSWERED, " (1 with the same answer)"),
        (PreferenceDataset, PAIRS, " (1 with the same answer)"),
        (PromptOnlyDataset, ANSWERED, ""),
    ],
)
def test_shared_prompts_are_counted_and_among_them_equal_rows(make_dataset, tokenizer, kind, rows, expected):
    changed = {**rows[1], "answer": "x"}
    training = kind(make_dataset(rows, "training"), tokenizer)
    evaluation = kind(make_dataset([rows[0], changed, {**rows[0], "input": "h"}], "evaluation"), tokenizer)
    said = describe_overlap(training, evaluation)
    assert said == f"2 of 3 evaluation rows have a prompt that is trained on too{expected}{CONCLUSION}"


def test_nothing_is_said_of_rows_apart(make_dataset, tokenizer):
    dataset = SupervisedDataset(make_dataset(ANSWERED), tokenizer)
    assert describe_overlap(*dataset.split_train_test(1 / 3)) is None


def test_a_split_of_rows_with_one_prompt_is_told(make_dataset, tokenizer):
    rows = [{**ANSWERED[0], "answer": word} for word in "cdefgh"]
    train, held_out = SupervisedDataset(make_dataset(rows), tokenizer).split_train_test(1 / 3)
    said = describe_overlap(train, held_out)
    assert said == f"2 of 2 evaluation rows have a prompt that is trained on too{CONCLUSION}"


@pytest.mark.parametrize(("others", "conclusion"), [(9, CONCLUSION), (10, "")])
def test_a_few_shared_prompts_are_counted_without_a_conclusion(others, conclusion):
    shared, *rest = [{"input_ids": np.array([number])} for number in range(1 + others)]
    said = describe_overlap([shared], [shared, *rest])
    assert said == f"1 of {1 + others} evaluation rows have a prompt that is trained on too{conclusion}"


def test_texts_without_a_prompt_are_compared_whole(make_dataset, tokenizer):
    texts = {"options": EncodeOptions(targets="text")}
    training = SupervisedDataset(make_dataset([{"input": "a b"}, {"input": "c"}], "training"), tokenizer, **texts)
    other = SupervisedDataset(make_dataset([{"input": "a c"}], "other"), tokenizer, **texts)
    same = SupervisedDataset(make_dataset([{"input": "c"}], "same"), tokenizer, **texts)
    assert describe_overlap(training, other) is None
    assert describe_overlap(training, same).startswith("1 of 1 evaluation rows have a prompt that is trained on too")
