"""JSON lines: recognised columns, columns by mapping, and rows that cannot be used."""

from __future__ import annotations

import pytest

from alignment.data import (
    AttributeDataset,
    MarginPreferenceDataset,
    PreferenceDataset,
    PromptOnlyDataset,
    RawDataset,
    SupervisedDataset,
)
from alignment.errors import DataError

USER_A, USER_C = {"role": "user", "content": "a"}, {"role": "user", "content": "c"}
SAYS_B, SAYS_D = {"role": "assistant", "content": "b"}, {"role": "assistant", "content": "d"}
PAIR = {"input": "a", "answer": "b", "other_answer": "d", "better": True}


@pytest.mark.parametrize(
    ("row", "keys", "sample"),
    [
        ({"src": "a", "tgt": "b"}, {}, {"input": "a", "answer": "b"}),
        ({"src": "a"}, {}, {"input": "a"}),
        ({"src": ["a", "b", "c"], "tgt": "d"}, {}, {"input": ["a", "b", "c"], "answer": "d"}),
        ({"prompt": "a"}, {}, {"input": "a"}),
        (PAIR, {}, PAIR),
        ({"input": "a", "safer": True, "is_safe": False}, {}, {"input": "a", "safer": True, "is_safe": False}),
        ({"dialogue": ["a", "b"]}, {}, {"dialogue": ["a", "b"]}),
        ({"messages": [USER_A, SAYS_B]}, {}, {"dialogue": ["a", "b"]}),
        ({"talk": [USER_A, SAYS_B]}, {"messages_key": "talk"}, {"dialogue": ["a", "b"]}),
        ({"prompt": "a", "chosen": "b", "rejected": "d"}, {}, PAIR),
        ({"prompt": [USER_A], "chosen": [SAYS_B], "rejected": [SAYS_D]}, {}, {**PAIR, "input": ["a"]}),
        ({"chosen": [USER_A, SAYS_B], "rejected": [USER_A, SAYS_D]}, {}, {**PAIR, "input": ["a"]}),
        ({"prompt": "a", "chosen": [USER_A, SAYS_B], "rejected": [USER_A, SAYS_D]}, {}, {**PAIR, "input": ["a"]}),
        (
            {"q": "a", "win": "b", "lose": "d", "answer": "x"},
            {"prompt_key": "q", "chosen_key": "win", "rejected_key": "lose"},
            PAIR,
        ),
        ({"question": "a", "solution": "b"}, {"input_key": "question", "label_key": "solution"}, PAIR | {}),
        ({"question": [USER_A, SAYS_B, USER_C]}, {"input_key": "question"}, {"input": ["a", "b", "c"]}),
        ({"q": "a", "s": "b", "messages": 3}, {"input_key": "q", "output_key": "s"}, {"input": "a", "answer": "b"}),
    ],
)
def test_shapes(write_jsonl, row, keys, sample):
    (read,) = RawDataset.load("jsonl", str(write_jsonl([row])), **keys)
    if "label_key" in keys:
        sample = {"input": "a", "answer": "b"}
    assert read == sample


@pytest.mark.parametrize(("scores", "better"), [((3, 1.5), True), ((1, 2), False), ((2, 2), None)])
def test_scores_decide_and_may_tie(write_jsonl, scores, better):
    row = {"prompt": "a", "chosen": "b", "rejected": "d", "s1": scores[0], "s2": scores[1]}
    keys = {"chosen_score_key": "s1", "rejected_score_key": "s2"}
    (sample,) = RawDataset.load("jsonl", str(write_jsonl([row])), **keys)
    assert sample["better"] is better


def test_jsonfile_is_an_alias_and_serves_prompts_with_labels(write_jsonl, tokenizer):
    dataset = PromptOnlyDataset(f"Jsonfile:1.0:{write_jsonl([{'src': 'a', 'tgt': 'b'}, {'src': 'c'}])}", tokenizer)
    assert [(sample["raw_input"], sample["label"]) for sample in dataset] == [("a", "b"), ("c", None)]


def test_a_null_preference_is_a_tie(write_jsonl, tokenizer):
    dataset = PreferenceDataset(f"jsonl::{write_jsonl([PAIR, {**PAIR, 'better': None}])}", tokenizer)
    assert len(dataset) == 1 and dataset.ledger.total("tied_pair") == 1


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"frage": "a"}, "columns: frage.: no known layout has these columns; name them, for example input_key="),
        ({}, "columns: none.: no known layout"),
        ({"chosen": "b", "rejected": "d"}, "no user turn and there is no column with the prompt"),
        (
            {"prompt": "a", "chosen": "b", "rejected": [SAYS_D]},
            "chosen is plain text and rejected is a conversation; both must be of one kind",
        ),
        ({"chosen": [SAYS_B], "rejected": [SAYS_D]}, "no user turn"),
        ({"prompt": "c", "chosen": [USER_A, SAYS_B], "rejected": [USER_A, SAYS_D]}, "prompt column differs"),
        ({"messages": [{"role": "critic", "content": "x"}]}, "message 0: unknown role 'critic' .allowed: system"),
        ({"messages": [{"role": "user"}]}, "message 0: expected"),
        ({"messages": "a"}, "column 'messages' must be a list of messages"),
        ({"input": 3, "answer": "b"}, "field 'input' must be a string, .* or a list of messages, got int 3"),
        ({"input": "a", "answer": ["b"]}, "field 'answer' must be a string, got list"),
        ({"input": "a", "answer": "b", "better": 1}, "field 'better' must be true or false, got int 1"),
        ({"input": "a"}, "columns: input.: missing 'answer'.*fields present: input"),
    ],
)
def test_bad_rows_name_file_line_and_columns(write_jsonl, tokenizer, row, message):
    path = write_jsonl([{"input": "a", "answer": "b"}, row])
    with pytest.raises(DataError, match=f"dataset 'jsonl', row 1: {path} line 2.*{message}"):
        SupervisedDataset(f"jsonl:1.0:{path}", tokenizer)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"input_kee": "q"}, "unknown argument 'input_kee'; did you mean 'input_key'.*allowed: path, input_key"),
        ({"input_key": 3}, "input_key must be a column name, got 3"),
        ({"input_key": "a", "prompt_key": "b"}, "prompt_key and another argument both name the column of the input"),
        ({"chosen_key": "a"}, "chosen_key and rejected_key must be given together"),
        ({"chosen_score_key": "a"}, "chosen_score_key and rejected_score_key must be given together"),
    ],
)
def test_wrong_mappings(write_jsonl, keys, message):
    with pytest.raises(DataError, match=message):
        RawDataset.load("jsonl", str(write_jsonl([PAIR])), **keys)


@pytest.mark.parametrize(
    ("row", "keys", "message"),
    [
        ({"input": "a"}, {"input_key": "q"}, "missing column 'q'"),
        ({"prompt": "a", "win": "b"}, {"chosen_key": "win", "rejected_key": "lose"}, "missing column 'lose'"),
        (
            {"prompt": "a", "chosen": "b", "rejected": "d", "s1": "3", "s2": 1},
            {"chosen_score_key": "s1", "rejected_score_key": "s2"},
            "score '3' must be a number",
        ),
    ],
)
def test_mapped_columns_must_be_there(write_jsonl, row, keys, message):
    with pytest.raises(DataError, match=f"line 1.*{message}"):
        RawDataset.load("jsonl", str(write_jsonl([row])), **keys)[0]


def test_a_path_is_required(tokenizer):
    with pytest.raises(DataError, match="'jsonl' needs a path: 'jsonl:1.0:PATH'"):
        SupervisedDataset("jsonl", tokenizer)


CHOSEN = {"prompt": "a", "chosen": "b", "rejected": "d"}


@pytest.mark.parametrize(
    ("row", "margin"), [({**CHOSEN, "gap": 2}, 2.0), ({**PAIR, "better": False, "gap": -0.5}, -0.5)]
)
def test_a_margin_is_read_beside_any_layout(write_jsonl, tokenizer, row, margin):
    spec = {"jsonl": {"path": write_jsonl([row]), "margin_key": "gap"}}
    (sample,) = MarginPreferenceDataset(spec, tokenizer)
    assert sample["margin"] == margin and type(sample["margin"]) is float
    assert "margin" not in PreferenceDataset(spec, tokenizer)[0]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (CHOSEN, r"line 2.*missing column 'gap'"),
        ({**CHOSEN, "gap": "wide"}, r"line 2.*'margin' must be a finite number, got str 'wide'"),
        ({**CHOSEN, "gap": float("nan")}, r"line 2.*'margin' must be a finite number, got float nan"),
        ({"prompt": "a", "response": "b", "helpfulness": 3, "gap": 1}, "'HelpSteer' is not one sample, so gap cannot"),
    ],
)
def test_a_margin_that_cannot_be_read_is_named(write_jsonl, tokenizer, row, message):
    with pytest.raises(DataError, match=message):
        MarginPreferenceDataset(
            {"jsonl": {"path": write_jsonl([{**CHOSEN, "gap": 1}, row]), "margin_key": "gap"}}, tokenizer
        )


def test_a_pair_without_a_margin_is_left_out_and_counted(write_jsonl, tokenizer):
    rows = [{**CHOSEN, "gap": 1}, {**CHOSEN, "gap": None}]
    dataset = MarginPreferenceDataset({"jsonl": {"path": write_jsonl(rows), "margin_key": "gap"}}, tokenizer)
    assert len(dataset) == 1 and dataset.ledger.total("null_field") == 1


HELPFUL = {"prompt": "a", "response": "b", "helpfulness": 3, "verbosity": 1.5}


@pytest.mark.parametrize(
    ("row", "options", "values"),
    [
        (HELPFUL, {"attributes": "verbosity, helpfulness"}, [1.5, 3.0]),
        ({**HELPFUL, "verbosity": None}, {"attributes": ["verbosity", "helpfulness"]}, [None, 3.0]),
        ({"prompt": "a", "response": "b", "s": [1, None]}, {"attributes": "x,y", "attributes_key": "s"}, [1.0, None]),
        ({"messages": [USER_A, SAYS_B], "helpfulness": 3}, {"attributes": "helpfulness"}, [3.0]),
        ({"q": "a", "z": "b", "c": 2}, {"attributes": "c", "input_key": "q", "output_key": "z"}, [2.0]),
    ],
)
def test_attributes_are_read_beside_any_layout(write_jsonl, tokenizer, row, options, values):
    """Even beside HelpSteer's columns, which would otherwise make pairs."""
    dataset = AttributeDataset({"jsonl": {"path": write_jsonl([row]), **options}}, tokenizer)
    assert [sample["attributes"] for sample in dataset] == [values]


def test_an_answer_without_a_value_is_left_out_and_counted(write_jsonl, tokenizer):
    rows = [HELPFUL, {"prompt": "a", "response": "b", "verbosity": None}]
    spec = {"jsonl": {"path": write_jsonl(rows), "attributes": ["verbosity", "helpfulness"]}}
    dataset = AttributeDataset(spec, tokenizer)
    assert len(dataset) == 1 and dataset.ledger.total("no_attribute_has_a_value") == 1


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**HELPFUL, "verbosity": "much"}, r"line 1.*'attributes', number 1 must be a finite number, got str 'much'"),
        ({**PAIR, "helpfulness": 1, "verbosity": 2}, "a pair of answers, and attributes belong to one answer"),
        (
            {"prompt": "a", "response": "b"},
            "no row .* can be used for a regression dataset: no_attribute_has_a_value 1",
        ),
    ],
)
def test_attributes_that_cannot_be_read_are_named(write_jsonl, tokenizer, row, message):
    with pytest.raises(DataError, match=message):
        AttributeDataset({"jsonl": {"path": write_jsonl([row]), "attributes": "helpfulness,verbosity"}}, tokenizer)


def completion(text, helpfulness, honesty=None, **more):
    ratings = {"helpfulness": {"Rating": helpfulness, "Rationale": "so"}, "honesty": {"Rating": honesty}}
    return {"response": text, "annotations": ratings, "overall_score": 7.5, **more}


def test_every_completion_of_ultrafeedback_has_its_ratings(write_jsonl, tokenizer):
    """Ratings are texts, and may be missing; a number of the completion itself can be an attribute too."""
    row = {"instruction": "a", "completions": [completion("b", "4", "N/A"), completion("d", "1", "2")], "source": "x"}
    names = {"attributes": "helpfulness,honesty,overall_score"}
    dataset = AttributeDataset({"jsonl": {"path": write_jsonl([row]), **names}}, tokenizer)
    found = {tokenizer.decode(sample["input_ids"].tolist())[-1]: sample["attributes"] for sample in dataset}
    assert found == {"b": [4.0, None, 7.5], "d": [1.0, 2.0, 7.5]}


def test_a_rating_that_is_no_number_is_named(write_jsonl, tokenizer):
    row = {"instruction": "a", "completions": [completion("b", "very")]}
    with pytest.raises(DataError, match=r"line 1.*rating 'very' must be a number or N/A"):
        AttributeDataset({"jsonl": {"path": write_jsonl([row]), "attributes": "helpfulness"}}, tokenizer)
