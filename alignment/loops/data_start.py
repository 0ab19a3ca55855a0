"""Arguments to datasets, and the account of their rows at the start of a run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from alignment.data.encode import EncodeOptions
from alignment.data.modules import load_dataset_modules
from alignment.data.tokenized import TokenizedDataset
from alignment.loops.launch import Launch
from alignment.telemetry import log
from alignment.telemetry.files import replace_file
from alignment.telemetry.tables import print_table

LEDGER_FILE = "ledger.json"


def encode_options(start: Launch, *, max_prompt_length: int | None = None) -> EncodeOptions:
    """Return the length limits, the template and the policies for rows that do not fit."""
    data = start.parsed.data
    return EncodeOptions(
        max_length=data.max_length,
        max_prompt_length=max_prompt_length,
        on_overlong=data.on_overlong,
        on_bad_row=data.on_bad_row,
        template="tokenizer" if data.chat_template == "tokenizer" else "pku",
    )


def register_user_datasets(start: Launch) -> None:
    """Import the modules that register the user's own datasets."""
    load_dataset_modules(start.parsed.data.dataset_modules, start.parsed.base_dir)


def split_for_evaluation(
    start: Launch, train: TokenizedDataset, evaluation: TokenizedDataset | None
) -> tuple[TokenizedDataset, TokenizedDataset | None]:
    """Return (train, evaluation); without evaluation data ``eval_split_ratio`` holds rows out of the training data."""
    ratio = start.parsed.data.eval_split_ratio
    if evaluation is None and ratio and start.parsed.training.evaluates:
        return train.split_train_test(ratio, seed=start.parsed.training.seed)
    return train, evaluation


def report_ledgers(start: Launch, datasets: Mapping[str, TokenizedDataset | None]) -> None:
    """Show what became of every row and keep it in ``output_dir/ledger.json``; ``datasets`` is keyed by role."""
    present = {role: dataset for role, dataset in datasets.items() if dataset is not None}
    for role, dataset in present.items():
        log.info(f"{role}: {len(dataset)} rows used; left out or changed: {dataset.ledger.summary()}")
    rows = [
        (role, row.dataset, row.reason, row.effect, row.count, ", ".join(map(str, row.examples)))
        for role, dataset in present.items()
        for row in dataset.ledger.rows()
    ]
    if rows:
        print_table("rows left out or changed", ["role", "dataset", "reason", "effect", "rows", "for example"], rows)
    accounts: dict[str, Any] = {role: dataset.ledger.as_dict() for role, dataset in present.items()}
    if start.topology.is_main:
        replace_file(start.output_dir / LEDGER_FILE, json.dumps(accounts, indent=1))
