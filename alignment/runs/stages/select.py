"""Choose training rows among scored answers and account for every prompt: ``alignment select``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from alignment.data.ledger import Ledger
from alignment.data.sources.tables import read_table
from alignment.errors import DataError
from alignment.selection.method import Method, Selected
from alignment.selection.scored import Scored, read_scored
from alignment.telemetry import log
from alignment.telemetry.files import replace_file


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
