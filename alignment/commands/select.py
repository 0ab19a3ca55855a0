"""Choose training rows among scored answers: ``alignment select FILE.json [--key value ...]``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from alignment.arguments.groups import Choice, Groups
from alignment.arguments.parser import parse_arguments
from alignment.data.ledger import Ledger
from alignment.data.sources.tables import read_table
from alignment.errors import ArgumentError, DataError
from alignment.fields import argument
from alignment.selection.method import Method, Selected
from alignment.selection.registered import METHODS, PEERS
from alignment.selection.scored import Scored, read_scored
from alignment.telemetry import log
from alignment.telemetry.files import replace_file


@dataclass(frozen=True, kw_only=True)
class SelectArguments:
    """What is chosen from, how, and where the rows go."""

    scored_file: str = argument(path="file", aliases=("dataset", "dataset_name_or_path"))
    """A file with scored answers: prompt, responses and rewards, or an answer a row with its reward."""
    output_file: str = argument(aliases=("output_path",))
    """The JSON lines to write."""
    method: str = argument(aliases=("choose_type", "post_processor"), spellings=PEERS)
    """Which answers of a prompt are chosen."""
    overwrite: bool = False
    """Whether an existing output_file is replaced."""


GROUPS: Groups = {"select": SelectArguments, "options": Choice("method", METHODS)}


def main(argv: Sequence[str]) -> None:
    """Select from the command line and print the account."""
    log.configure(output_dir=None, is_main=True)
    parsed = parse_arguments(GROUPS, argv)
    given: SelectArguments = parsed.select
    source, target = Path(given.scored_file), Path(given.output_file)
    if target.exists() and (not given.overwrite or target.samefile(source)):
        same = target.samefile(source)
        raise ArgumentError(f"output_file: {target} {'is scored_file itself' if same else 'exists: --overwrite'}")
    select_file(source, target, parsed.options)


def select_file(source: Path, target: Path, method: Method) -> Ledger:
    """Write the rows that ``method`` chooses in ``source`` to ``target``; return the account of dropped prompts.

    DataError if nothing was chosen, or for a row that cannot be read.
    """
    table = read_table(source)
    prompts = read_scored((table.describe(number), row) for number, row in enumerate(table.rows))
    selected = method.select(prompts)
    ledger = _account(str(source), prompts, selected)
    if not selected.rows:
        raise DataError(f"{source}: no rows chosen among {len(prompts)} prompts ({ledger.summary()})")
    replace_file(target, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in selected.rows))
    log.info(f"{target}: {len(selected.rows)} rows chosen from {len(prompts)} prompts; dropped: {ledger.summary()}")
    return ledger


def _account(name: str, prompts: Sequence[Scored], selected: Selected) -> Ledger:
    ledger = Ledger()
    for reason, indices in selected.dropped.items():
        for index in indices:
            ledger.add(name, reason, index)
    dropped = ledger.total()
    ledger.add_size(name, selected=len(prompts), used=len(prompts) - dropped)
    return ledger
