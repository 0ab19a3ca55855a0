"""Preference and safety preference pairs, and answers with a label."""

from __future__ import annotations

import json

import pytest

from alignment.data import PreferenceDataset, SafetyPreferenceDataset, UnpairedPreferenceDataset
from alignment.data.encode import EncodeOptions
from alignment.data.encoded.tokenized import prompt_of
from alignment.errors import DataError

PAIR = {"input": "hi", "answer": "a b", "other_answer": "c", "better": True}
SAFETY = {"input": "hi", "answer": "a b", "other_answer": "c", "safer": True, "is_safe": True, "is_other_safe": False}


def answer(ids, sample, tokenizer) -> str:
    return tokenizer.decode(ids[sample["prompt_length"] :], skip_special_tokens=False)


def test_the_better_answer_comes_first(make_dataset, tokenizer):
    dataset = PreferenceDataset(make_dataset([PAIR, {**PAIR, "better": False}]), tokenizer)
    shown = [tuple(answer(s[f"{side}_input_ids"], s, tokenizer) for side in ("better", "worse")) for s in dataset]
    assert shown == [("a b </s>", "c </s>"), ("c </s>", "a b </s>")]
    for sample in dataset:
        length = sample["prompt_length"]
        assert sample["better_input_ids"][:length].tolist() == sample["worse_input_ids"][:length].tolist()


def test_both_sides_are_padded_to_one_width(make_dataset, tokenizer):
    dataset = PreferenceDataset(make_dataset([PAIR, {**PAIR, "answer": "a b c d"}]), tokenizer)
    batch = dataset.collate(list(dataset))
    width = max(len(sample["better_input_ids"]) for sample in dataset)
    for side in ("better", "worse"):
        assert batch[f"{side}_input_ids"].shape == batch[f"{side}_attention_mask"].shape == (2, width)
        assert batch[f"{side}_attention_mask"].sum(axis=1).tolist() == batch[f"{side}_lengths"].tolist()
        for line, sample, length in zip(batch[f"{side}_input_ids"], dataset, batch[f"{side}_lengths"], strict=True):
            assert line[:length].tolist() == sample[f"{side}_input_ids"].tolist()
            assert (line[length:] == tokenizer.pad_token_id).all()
    assert batch["prompt_lengths"].tolist() == [sample["prompt_length"] for sample in dataset]


BAD = [
    ({**PAIR, "input": ""}, "empty_prompt"),
    ({**PAIR, "other_answer": " "}, "empty_answer"),
    ({**PAIR, "other_answer": "a b"}, "identical_pair"),
    ({**PAIR, "other_answer": " a  b"}, "identical_pair"),
    ({**PAIR, "better": None}, "tied_pair"),
]


@pytest.mark.parametrize(("row", "reason"), BAD)
def test_bad_rows_are_dropped_and_counted_or_refused(make_dataset, tokenizer, row, reason):
    name = make_dataset([PAIR, row])
    dataset = PreferenceDataset(name, tokenizer)
    assert len(dataset) == 1 and dataset.ledger.total(reason) == dataset.ledger.total() == 1
    with pytest.raises(DataError, match=f"row 1.*{reason.replace('_', ' ')}"):
        PreferenceDataset(name, tokenizer, options=EncodeOptions(on_bad_row="error"))


def test_one_overlong_side_drops_the_pair(make_dataset, tokenizer):
    name = make_dataset([PAIR, {**PAIR, "other_answer": "c " * 30}])
    dataset = PreferenceDataset(name, tokenizer, options=EncodeOptions(max_length=20))
    assert len(dataset) == 1 and dataset.ledger.total("dropped_overlong") == 1


def test_a_left_cut_takes_the_same_prompt_from_both_sides(make_dataset, tokenizer):
    name = make_dataset([{**PAIR, "other_answer": "c d e f"}])
    dataset = PreferenceDataset(name, tokenizer, options=EncodeOptions(max_length=8, on_overlong="left"))
    (sample,) = dataset
    assert sample["prompt_length"] == 3 and len(sample["worse_input_ids"]) == 8
    assert answer(sample["better_input_ids"], sample, tokenizer) == "a b </s>"
    assert dataset.ledger.total("truncated_left") == 1


def test_pairs_that_only_a_right_cut_makes_equal_are_dropped(make_dataset, tokenizer):
    name = make_dataset([PAIR, {**PAIR, "answer": "a b c d", "other_answer": "a b c e"}])
    dataset = PreferenceDataset(name, tokenizer, options=EncodeOptions(max_length=12, on_overlong="right"))
    assert len(dataset) == 1 and dataset.ledger.total("dropped_overlong") == 1


def test_missing_fields_are_named(make_dataset, tokenizer):
    name = make_dataset([PAIR, {"input": "hi", "answer": "a"}])
    with pytest.raises(DataError, match="row 1: missing 'other_answer', 'better'.*preference.*input, answer"):
        PreferenceDataset(name, tokenizer)


def test_safety_signs_and_order(make_dataset, tokenizer):
    rows = [
        SAFETY,
        {**SAFETY, "safer": False, "is_safe": False, "is_other_safe": True},
        {**SAFETY, "is_other_safe": True},
        {**SAFETY, "is_safe": False},
    ]
    dataset = SafetyPreferenceDataset(make_dataset(rows), tokenizer)
    safer = [answer(sample["safer_input_ids"], sample, tokenizer) for sample in dataset]
    assert safer == ["a b </s>", "c </s>", "a b </s>", "a b </s>"]
    batch = dataset.collate(list(dataset))
    assert batch["safer_safety_sign"].tolist() == [1, 1, 1, -1]
    assert batch["unsafer_safety_sign"].tolist() == [-1, -1, 1, -1]
    assert batch["safer_input_ids"].shape == batch["unsafer_attention_mask"].shape
    assert batch["unsafer_lengths"].tolist() == batch["unsafer_attention_mask"].sum(axis=1).tolist()


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({**SAFETY, "safer": False}, "contradictory_safety"),
        ({**SAFETY, "answer": "c"}, "identical_pair"),
        ({**SAFETY, "answer": ""}, "empty_answer"),
    ],
)
def test_bad_safety_rows(make_dataset, tokenizer, row, reason):
    name = make_dataset([SAFETY, row])
    dataset = SafetyPreferenceDataset(name, tokenizer)
    assert len(dataset) == 1 and dataset.ledger.total(reason) == 1
    with pytest.raises(DataError, match=f"row 1.*{reason.replace('_', ' ')}"):
        SafetyPreferenceDataset(name, tokenizer, options=EncodeOptions(on_bad_row="error"))


def test_preference_data_is_no_safety_data(make_dataset, tokenizer):
    with pytest.raises(DataError, match="missing 'safer', 'is_safe', 'is_other_safe'.*safety preference"):
        SafetyPreferenceDataset(make_dataset([PAIR]), tokenizer)


LIKED = {"input": "hi", "answer": "a b", "desirable": True}


def shown(dataset, tokenizer):
    return [(answer(sample["input_ids"], sample, tokenizer), sample["desirable"]) for sample in dataset]


def test_an_answer_and_its_label(make_dataset, tokenizer):
    dataset = UnpairedPreferenceDataset(make_dataset([LIKED, {**LIKED, "answer": "c", "desirable": False}]), tokenizer)
    assert shown(dataset, tokenizer) == [("a b </s>", 1), ("c </s>", 0)]
    batch = dataset.collate(list(dataset))
    assert batch["desirable"].tolist() == [True, False]
    assert batch["input_ids"].shape == batch["attention_mask"].shape
    assert batch["lengths"].tolist() == batch["attention_mask"].sum(axis=1).tolist()
    assert batch["prompt_lengths"].tolist() == [sample["prompt_length"] for sample in dataset]


def test_a_pair_is_two_labelled_answers(make_dataset, tokenizer):
    """As in TRL's unpair_preference_dataset: the better answer is desirable, the other one is not."""
    rows = [PAIR, LIKED, {**PAIR, "better": False}, {**PAIR, "better": None}, {**PAIR, "other_answer": "a  b"}]
    dataset = UnpairedPreferenceDataset(make_dataset(rows), tokenizer)
    pair = [("a b </s>", 1), ("c </s>", 0)]
    assert shown(dataset, tokenizer) == [*pair, ("a b </s>", 1), pair[1][:1] + (1,), pair[0][:1] + (0,)]
    assert dataset.ledger.total("tied_pair") == dataset.ledger.total("identical_pair") == 1
    assert dict(dataset.ledger.sizes()) == {"test-rows": {"selected": 7, "used": 5}}


def test_one_overlong_answer_leaves_the_other_of_its_pair(make_dataset, tokenizer):
    name = make_dataset([PAIR, {**PAIR, "other_answer": "c " * 30}])
    dataset = UnpairedPreferenceDataset(name, tokenizer, options=EncodeOptions(max_length=20))
    assert [label for _, label in shown(dataset, tokenizer)] == [1, 0, 1]
    assert dataset.ledger.total("dropped_overlong") == 1


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({**LIKED, "input": ""}, "empty_prompt"),
        ({**LIKED, "answer": " "}, "empty_answer"),
        ({**LIKED, "desirable": None}, "null_field"),
    ],
)
def test_bad_labelled_rows_are_dropped_and_counted(make_dataset, tokenizer, row, reason):
    dataset = UnpairedPreferenceDataset(make_dataset([LIKED, row]), tokenizer)
    assert len(dataset) == 1 and dataset.ledger.total(reason) == dataset.ledger.total() == 1


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"input": "hi", "answer": "a"}, "row 1: missing 'desirable', which a binary preference.*: input, answer"),
        ({**LIKED, "desirable": 0.5}, "row 1: field 'desirable' must be true or false, got float 0.5"),
        ({**PAIR, "desirable": True}, "row 1: 'desirable' labels one answer, but there are 'answer' and 'other_ans"),
    ],
)
def test_an_unclear_label_is_refused_with_its_row(make_dataset, tokenizer, row, says):
    with pytest.raises(DataError, match=says):
        UnpairedPreferenceDataset(make_dataset([LIKED, row]), tokenizer)


@pytest.mark.parametrize(
    ("row", "label"),
    [
        ({"prompt": "hi", "completion": "a b", "label": True}, 1),
        ({"instruction": "hi", "output": "a b", "label": 0}, 0),
        ({"src": ["hi"], "tgt": [], "response": ["a b"], "sort": [0]}, 0),
        ({"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "a b"}], "label": 1}, 1),
    ],
)
def test_labels_of_files_are_recognised(tmp_path, tokenizer, row, label):
    """TRL, OpenRLHF and LLaMA-Factory, PaddleNLP, conversations."""
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    dataset = UnpairedPreferenceDataset(f"jsonl:1:{tmp_path / 'rows.jsonl'}", tokenizer)
    assert shown(dataset, tokenizer) == [("a b </s>", label)]


@pytest.mark.parametrize("label", [2, 0.7, "yes", -1])
def test_a_label_of_another_kind_is_refused_with_value_column_and_line(tmp_path, tokenizer, label):
    rows = [{"prompt": "hi", "completion": "a", "label": True}, {"prompt": "hi", "completion": "b", "label": label}]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(DataError) as raised:
        UnpairedPreferenceDataset(f"jsonl:1:{path}", tokenizer)
    assert f"column 'label' is {label!r} (allowed: true, false, 1, 0)" in str(raised.value)
    assert "rows.jsonl" in str(raised.value) and "line 2" in str(raised.value)


LABELS = [{"input": "a " * (1 + n // 3), "answer": "b " * (1 + n), "desirable": n % 2 == 0} for n in range(12)]
PAIRS = [{"input": "a " * (1 + n), "answer": "a b", "other_answer": "c", "better": True} for n in range(8)]
REPEATED = [{**PAIRS[n // 2], "answer": "b " * (1 + n)} for n in range(8)]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("kind", "rows", "held_out"),
    [
        (UnpairedPreferenceDataset, PAIRS, 4),
        (UnpairedPreferenceDataset, LABELS, 3),
        (PreferenceDataset, REPEATED, 2),
    ],
    ids=["the halves of pairs", "labelled answers", "several pairs"],
)
def test_a_split_never_separates_answers_to_one_prompt(make_dataset, tokenizer, kind, rows, held_out, seed):
    dataset = kind(make_dataset(rows), tokenizer)
    parts = dataset.split_train_test(0.25, seed=seed)
    train, test = ({prompt_of(sample) for sample in part} for part in parts)
    assert len(parts[1]) == held_out and len(parts[0]) == len(dataset) - held_out and not train & test
