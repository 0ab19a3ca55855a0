"""PKU-SafeRLHF and alpaca: local copies, the hub, and no hub."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from alignment.data import PreferenceDataset, RawDataset, SafetyPreferenceDataset, SupervisedDataset
from alignment.errors import DataError

PKU = {
    "prompt": "a",
    "response_0": "b",
    "response_1": "c",
    "better_response_id": 1,
    "safer_response_id": 0,
    "is_response_0_safe": True,
    "is_response_1_safe": False,
}
ALPACA = {"instruction": "a", "input": "", "output": "b"}
PKU_NAMES = [
    "PKU-SafeRLHF/train",
    "PKU-SafeRLHF/test",
    "PKU-SafeRLHF-30K/train",
    "PKU-SafeRLHF-30K/test",
    "PKU-SafeRLHF-10K/train",
]


@pytest.mark.parametrize("prefix", ["", "PKU-Alignment/"])
@pytest.mark.parametrize("name", PKU_NAMES)
def test_pku_mapping(write_jsonl, name, prefix):
    (sample,) = RawDataset.load(prefix + name, path=str(write_jsonl([PKU])))
    assert sample == {
        "input": "a", "answer": "b", "other_answer": "c",
        "better": False, "safer": True, "is_safe": True, "is_other_safe": False,
    }  # fmt: skip


def test_pku_serves_both_kinds_of_pairs(write_jsonl, tokenizer):
    spec = f"PKU-SafeRLHF/train:1.0:{write_jsonl([PKU])}"
    (pair,) = PreferenceDataset(spec, tokenizer)
    assert tokenizer.decode(pair["better_input_ids"]).endswith("c")
    (pair,) = SafetyPreferenceDataset(spec, tokenizer)
    assert tokenizer.decode(pair["safer_input_ids"]).endswith("b")


def test_a_local_folder_gives_its_split(write_jsonl, tmp_path):
    write_jsonl([PKU] * 2, "data/train.jsonl")
    write_jsonl([PKU], "data/test.jsonl")
    assert len(RawDataset.load("PKU-SafeRLHF/train", path=str(tmp_path))) == 2
    assert len(RawDataset.load("PKU-SafeRLHF/test", path=str(tmp_path))) == 1


@pytest.mark.parametrize("column", PKU)
def test_pku_missing_column_names_file_line_and_columns(write_jsonl, tokenizer, column):
    path = write_jsonl([PKU, {name: value for name, value in PKU.items() if name != column}])
    with pytest.raises(DataError, match=f"rows.jsonl line 2 .columns: .*missing column '{column}'"):
        PreferenceDataset(f"PKU-SafeRLHF/train:1.0:{path}", tokenizer)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"better_response_id": 2}, "'better_response_id' is 2 .allowed: 0 or 1"),
        ({"safer_response_id": None}, "'safer_response_id' is None"),
        ({"better_response_id": [0]}, "'better_response_id' is .0. .allowed"),
        ({"prompt": 3}, "field 'input' must be a string"),
        ({"is_response_0_safe": "yes"}, "field 'is_safe' must be true or false"),
    ],
)
def test_pku_wrong_type_names_file_and_line(write_jsonl, tokenizer, change, message):
    path = write_jsonl([PKU, {**PKU, **change}])
    with pytest.raises(DataError, match=f"rows.jsonl line 2.*{message}"):
        PreferenceDataset(f"PKU-SafeRLHF/train:1.0:{path}", tokenizer)


@pytest.mark.parametrize("name", ["alpaca", "stanford-alpaca"])
def test_alpaca_mapping(write_jsonl, name):
    path = write_jsonl([ALPACA, {**ALPACA, "input": "x"}, {"instruction": "a", "output": "b", "input": None}])
    rows = list(RawDataset.load(name, path=str(path)))
    assert [row["input"] for row in rows] == ["a", "a x", "a"]
    assert all(row["answer"] == "b" for row in rows)


def test_alpaca_wrong_rows(write_jsonl, tokenizer):
    wrong = [({"instruction": "a"}, "missing column 'output'"), ({**ALPACA, "input": 3}, "'input' must be")]
    for row, message in wrong:
        with pytest.raises(DataError, match=f"line 1.*{message}"):
            SupervisedDataset(f"alpaca:1.0:{write_jsonl([row])}", tokenizer)


def test_alpaca_holds_no_pairs(write_jsonl, tokenizer):
    with pytest.raises(DataError, match="'alpaca', row 0.*missing 'other_answer', 'better'.*present: input, answer"):
        PreferenceDataset(f"alpaca:1.0:{write_jsonl([ALPACA])}", tokenizer)


@pytest.fixture
def fake_hub(monkeypatch):
    """Stand in for the package ``datasets``; ``calls`` records what was asked for."""
    module, calls = ModuleType("datasets"), []

    def load_dataset(path, split):
        calls.append((path, split))
        if path.startswith("nobody/"):
            raise ConnectionError("offline mode is enabled")
        return [PKU] * 3

    module.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", module)
    return calls


def test_without_a_path_the_hub_is_asked(fake_hub):
    dataset = RawDataset.load("PKU-SafeRLHF-30K/test")
    assert fake_hub == [("PKU-Alignment/PKU-SafeRLHF-30K", "test")] and len(dataset) == 3
    assert dataset.describe_row(1).startswith(
        "dataset 'PKU-SafeRLHF-30K/test', row 1: PKU-Alignment/PKU-SafeRLHF-30K [test] row 1 (columns: prompt,"
    )


def test_path_may_name_another_hub_dataset(fake_hub):
    RawDataset.load("PKU-SafeRLHF/train", path="me/copy")
    assert fake_hub == [("me/copy", "train")]


def test_an_unreachable_hub_names_the_alternative(fake_hub):
    with pytest.raises(DataError, match="nobody/x.*ConnectionError: offline mode.*local copy.*'alpaca:1.0:PATH'"):
        RawDataset.load("alpaca", path="nobody/x")


def test_without_the_package_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match="needs the package 'datasets' .pip install datasets.*'alpaca:1.0:PATH'"):
        RawDataset.load("alpaca")


def test_a_path_that_is_nothing_is_refused(fake_hub):
    with pytest.raises(DataError, match="neither a file or folder .*nor a hub name"):
        RawDataset.load("alpaca", path="/no/such/folder")
    assert fake_hub == []
