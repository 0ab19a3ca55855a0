"""The prompts of a loop as rows, and the share of each round: every prompt belongs to one round, none is left over."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alignment.data.encoded.mixture import Mixture
from alignment.data.encoded.prompt_only import read_question
from alignment.data.ledger import BadRow
from alignment.data.raw.dataset_spec import parse_datasets
from alignment.data.raw.modules import load_dataset_modules
from alignment.errors import ArgumentError, DataError
from alignment.rounds.reading.loop_arguments import PromptSource
from alignment.selection.conditional import Conditional
from alignment.telemetry import log
from alignment.telemetry.wording import counted

Row = Mapping[str, Any]


def read_prompts(source: PromptSource, *, base_dir: Path, seed: int) -> list[Row]:
    """Return every prompt of ``source`` in order, in the columns ``input``, ``answer`` (the label) and ``tools``.

    Rows that hold no prompt are left out and counted in the log; DataError if none is left.
    """
    load_dataset_modules(source.dataset_modules, base_dir)
    columns = {"input_key": source.input_key, "label_key": source.label_key}
    defaults = {"split": source.split or "train", **{name: value for name, value in columns.items() if value}}
    specs = parse_datasets(source.prompts or "", base_dir=base_dir, defaults=defaults)
    rows, broken = [], 0
    for row in Mixture(specs, seed=seed):
        try:
            if row.fault is not None:
                raise row.fault
            asked, label = read_question(row)
        except BadRow:
            broken += 1
            continue
        rows.append({"input": asked, **({} if label is None else {"answer": label})} | _tools(row.sample))
    if broken:
        log.warn(f"prompts: {counted(broken, 'row')} of {len(rows) + broken} left out, as they hold no prompt")
    if not rows:
        raise DataError(f"prompts: {source.prompts} holds no prompt")
    return rows


def _tools(sample: Mapping[str, Any]) -> dict[str, Any]:
    return {"tools": sample["tools"]} if sample.get("tools") else {}


def share_of(total: int, *, rounds: int, number: int, size: int | None) -> range:
    """Return the prompts of round ``number`` (from 1) of ``total``.

    ``size`` prompts a round, the last share with what is left; None: as equal as whole numbers allow.
    ArgumentError if a round would have none.
    """
    if size is None:
        if rounds > total:
            raise ArgumentError(f"rounds={rounds}: there are only {counted(total, 'prompt')}, fewer than rounds")
        return range(total * (number - 1) // rounds, total * number // rounds)
    if (rounds - 1) * size >= total:
        most = -(-total // size)
        raise ArgumentError(
            f"rounds={rounds} with rollout_batch_size={size} need more than {(rounds - 1) * size} prompts and there "
            f"are {total} (allowed: up to {counted(most, 'round')}; or leave rollout_batch_size out for equal shares)"
        )
    return range((number - 1) * size, min(number * size, total))


def write_rows(rows: Sequence[Row]) -> str:
    """Return ``rows`` as JSON lines."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the JSON lines of ``path``, which a stage wrote whole."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def condition(rows: Sequence[Row], method: Conditional, reward: float | None) -> list[Row]:
    """Return the prompts with ``reward`` in them, as the conditional policy was trained to read it."""
    return [{**row, "input": method.condition(row["input"], reward)} for row in rows]


def restore(answered: Sequence[Row], plain: Sequence[Row], conditioned: Sequence[Row]) -> list[Row]:
    """Return the rows ``answered`` with the prompts that they had before ``condition``, which are what is scored."""
    before = {_key(new["input"]): old["input"] for old, new in zip(plain, conditioned, strict=True)}
    return [{**row, "prompt": before[_key(row["prompt"])]} for row in answered]


def count_shared(rows: Sequence[Row], others: Sequence[Row]) -> int:
    """Return how many prompts of ``rows`` stand in ``others``, too."""
    known = {_key(row["input"]) for row in others}
    return sum(_key(row["input"]) in known for row in rows)


def _key(prompt: Any) -> str:
    return json.dumps(prompt, ensure_ascii=False, sort_keys=True)
