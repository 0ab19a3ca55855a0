"""The account of the rows: what is logged, and what is written for the report."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from alignment.arguments.keys.columns import ColumnArguments
from alignment.data import SupervisedDataset
from alignment.data.encode import EncodeOptions
from alignment.data.sources.packing import TOKENIZER
from alignment.models.tokenizer.tokenizer import load_tokenizer
from alignment.runs import datasets

UNKNOWN = (
    "the tokenizer does not know all the text of 1 of 2 rows: 1 of 14 tokens (7.1%) are <unk>, for example in "
    "'<bos> <user> pack <unk> <assistant> rope <eos>'"
)
SHARED = (
    "2 of 2 evaluation rows have a prompt that is trained on too (1 with the same answer): the evaluation does not "
    "show how the model does on new prompts"
)


@pytest.fixture
def report(tmp_path, monkeypatch):
    """Report on rows of training and evaluation; return the warnings and ``ledger.json``."""

    def run(training, evaluation, *, do_train=True):
        said = []
        monkeypatch.setattr(datasets.log, "warn", said.append)
        opened = {}
        for role, rows in (("train", training), ("eval", evaluation)):
            path = tmp_path / f"{role}.jsonl"
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
            options = EncodeOptions(template="tokenizer")
            opened[role] = SupervisedDataset(f"jsonl::{path}", load_tokenizer(TOKENIZER), options=options)
        parsed = SimpleNamespace(columns=ColumnArguments(), training=SimpleNamespace(do_train=do_train))
        launch = SimpleNamespace(parsed=parsed, topology=SimpleNamespace(is_main=True), output_dir=tmp_path)
        datasets.report_ledgers(launch, opened)
        return said, json.loads((tmp_path / "ledger.json").read_text())

    return run


def test_unknown_text_and_shared_prompts_are_warned_of_and_kept_for_the_report(report):
    rows = [{"input": "pack rope", "answer": "rope"}, {"input": "pack zebra", "answer": "rope"}]
    said, ledger = report(rows, [rows[0], {**rows[0], "answer": "tent"}])
    assert said == [f"train: {UNKNOWN}", f"eval: {SHARED}"]
    assert ledger["train"]["warnings"] == [UNKNOWN] and ledger["eval"]["warnings"] == [SHARED]


def test_shared_prompts_are_of_no_interest_to_a_run_that_only_evaluates(report):
    rows = [{"input": "pack rope", "answer": "rope"}]
    said, ledger = report(rows, rows, do_train=False)
    assert said == [] and "warnings" not in ledger["eval"]


def test_rows_without_a_fault_give_no_warning(report):
    said, ledger = report([{"input": "pack rope", "answer": "rope"}], [{"input": "pack tent", "answer": "tent"}])
    assert said == [] and "warnings" not in ledger["train"]
