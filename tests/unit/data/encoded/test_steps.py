"""Steps with labels from files of TRL, Math-Shepherd and OpenRLHF; what does not fit is named with its place."""

from __future__ import annotations

import json

import numpy as np
import pytest

from alignment.data import ProcessDataset
from alignment.data.encode import EncodeOptions
from alignment.data.encoded.steps import step_token_id
from alignment.errors import ArgumentError, DataError
from alignment.models.tokenizer.tokenizer import load_tokenizer
from tests.contract.keys.assembled import TOKENIZER

TRL = {"prompt": "pack rope map", "completions": ["rope", "tent", "map"], "labels": [True, False, 0.25]}


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(TOKENIZER)


@pytest.fixture
def read(tmp_path, tokenizer):
    def run(row, **options):
        (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
        options = EncodeOptions(template="tokenizer", step_token="and", on_bad_row="error", **options)
        return ProcessDataset(f"jsonl:1.0:{tmp_path}/rows.jsonl", tokenizer, options=options)[0]

    return run


def steps_of(sample, tokenizer):
    ids = sample["input_ids"]
    starts = [sample["prompt_length"], *(p + 1 for p in sample["step_positions"][:-1])]
    return [tokenizer.decode(ids[a:b].tolist()) for a, b in zip(starts, sample["step_positions"], strict=True)]


def test_steps_and_labels(read, tokenizer):
    sample = read(TRL)
    assert steps_of(sample, tokenizer) == ["rope", "tent", "map"]
    assert (sample["input_ids"][sample["step_positions"]] == step_token_id(tokenizer, "and")).all()
    assert list(sample["step_labels"]) == [1.0, 0.0, 0.25]


def test_a_text_and_the_same_text_with_labels(read, tokenizer):
    """Math-Shepherd's rows, with a step token of the tokenizer; the reward tokens may be others."""
    text = "pack rope Step 1: rope and\nStep 2: tent and"
    sample = read({"input": text, "label": "pack rope Step 1: rope +\nStep 2: tent -"})
    assert list(sample["step_labels"]) == [1.0, 0.0] and len(sample["step_positions"]) == 2
    sample = read({"input": text, "label": "pack rope Step 1: rope no\nStep 2: tent yes"}, reward_tokens=("yes", "no"))
    assert list(sample["step_labels"]) == [0.0, 1.0]


def test_a_cut_answer_keeps_the_labels_of_the_steps_that_are_left(read):
    whole = read(TRL)
    cut = read(TRL, max_length=int(whole["step_positions"][1]) + 1, on_overlong="right")
    np.testing.assert_array_equal(cut["step_positions"], whole["step_positions"][:2])
    assert list(cut["step_labels"]) == [1.0, 0.0]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("length", [7, 8, 9, 10, 11])
def test_a_step_that_contains_the_step_token_is_refused_where_the_answer_is_cut_too(read, length, side):
    """What is cut off must not make the numbers of labels and step tokens agree: labels would move to other steps."""
    row = {**TRL, "completions": ["rope and tent", "tent", "map"]}
    with pytest.raises(DataError, match=r"3 label\(s\), and 4 of the answer's tokens are the step token 'and'"):
        read(row, max_length=length, on_overlong=side)


def test_a_cut_prompt_keeps_every_label(read):
    whole = read(TRL)
    cut = read(TRL, max_length=len(whole["input_ids"]) - 1, on_overlong="left")
    np.testing.assert_array_equal(cut["step_positions"], whole["step_positions"] - 1)
    assert list(cut["step_labels"]) == [1.0, 0.0, 0.25]


@pytest.mark.parametrize("seed", range(4))
def test_a_split_keeps_solutions_of_one_question_together(tmp_path, tokenizer, seed):
    questions = ["pack rope", "pack tent", "pack map", "pack rope map"]
    rows = [{**TRL, "prompt": q, "labels": [True, False, n / 4]} for n in range(3) for q in questions]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = EncodeOptions(template="tokenizer", step_token="and")
    dataset = ProcessDataset(f"jsonl:1.0:{tmp_path}/rows.jsonl", tokenizer, options=options)
    parts = dataset.split_train_test(0.25, seed=seed)
    asked = [[bytes(row["input_ids"][: row["prompt_length"]]) for row in part] for part in parts]
    assert [(len(part), len(set(part))) for part in asked] == [(9, 3), (3, 1)]
    assert not set(asked[0]) & set(asked[1])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**TRL, "labels": [True]}, r"rows.jsonl.*3 step\(s\) and 1 label\(s\)"),
        ({**TRL, "completions": [], "labels": []}, "no step to learn from"),
        ({**TRL, "labels": [True, "good", False]}, r"step label 'good' \(allowed: true, false, '\+', '-'"),
        ({**TRL, "labels": [True, -1, False]}, "step label -1"),
        ({**TRL, "completions": ["rope and map", "tent", "map"]}, r"3 label\(s\), and 4 of the answer's tokens"),
        ({"input": "pack rope and", "label": "pack rope +"}, "missing 'steps', 'step_labels'"),
        (
            {"input": "pack Step 1: rope and", "label": "pack Step 1: tent +"},
            "after step 1 the label is .*or its text is not that of the input",
        ),
        ({"prompt": "pack rope", "response": "rope"}, "missing 'steps', 'step_labels'"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(read, row, message):
    with pytest.raises(DataError, match=message):
        read(row)


@pytest.mark.parametrize("token", ["and also", "", "unknownword"])
def test_a_step_token_that_is_not_one_known_token_is_refused(tokenizer, token):
    with pytest.raises(ArgumentError, match="a step ends with exactly one token"):
        step_token_id(tokenizer, token)
