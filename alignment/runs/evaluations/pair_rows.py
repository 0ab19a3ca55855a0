"""Pairs of a better and a worse answer with their subset, read from a file of any layout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from alignment.data.ledger import EMPTY_PROMPT, IDENTICAL_PAIR, TIED_PAIR, BadRow, Ledger
from alignment.data.raw.conversation import conversation
from alignment.data.raw.layouts.rows import Reading, SampleRows
from alignment.data.raw.raw_sample import check_sample, require_fields
from alignment.data.sources.tables import read_table
from alignment.errors import DataError
from alignment.records import RawSample
from alignment.runs.evaluations.eval_arguments import RewardAccuracyArguments

_SPLITS = ("filtered", "test", "validation", "train")
_KIND = "preference"
_COLUMNS = (("input", "input_key"), ("chosen", "chosen_key"), ("rejected", "rejected_key"))
WITHOUT_SUBSET = "all"
"""The subset of rows that name none."""


class Pair(NamedTuple):
    """Two answers to a prompt."""

    prompt: Any
    chosen: str
    """The better answer."""
    rejected: str
    subset: str


@dataclass(frozen=True)
class PairRows:
    """The pairs of a file, and the account of its rows."""

    pairs: list[Pair]
    ledger: Ledger

    @classmethod
    def read(cls, given: RewardAccuracyArguments) -> PairRows:
        """Read ``pairs_file``; ties, equal answers and empty prompts are left out and counted."""
        table = read_table(given.pairs_file, splits=(given.split,) if given.split else _SPLITS)
        ledger, name = Ledger(), given.pairs_file
        for note in table.notes():
            ledger.add_note(name, note)
        samples = SampleRows(table.rows, _reading(given), table.describe)
        for note in samples.notes():
            ledger.add_note(name, note)
        pairs = []
        for number in range(len(samples)):
            found = _read(samples, number)
            if isinstance(found, str):
                ledger.add(name, found, number)
                continue
            subset = table.rows[samples.index(number)].get(given.subset_key)
            pairs.append(found._replace(subset=WITHOUT_SUBSET if subset is None else str(subset)))
        ledger.add_size(name, selected=len(samples), used=len(pairs))
        if not pairs:
            raise DataError(f"{name}: no pair can be used ({ledger.summary()})")
        return cls(pairs, ledger)


def _reading(given: RewardAccuracyArguments) -> Reading:
    columns = {what: getattr(given, key) for what, key in _COLUMNS if getattr(given, key) is not None}
    apart = frozenset(given.ignored_columns)
    return Reading(columns=columns, layout=given.layout, ignored=apart | {given.subset_key} - {*columns.values()})


def _read(samples: SampleRows, number: int) -> Pair | str:
    """Return the pair without its subset, or why it is left out."""
    place = samples.place(number)
    try:
        sample = check_sample(samples.sample(number), place)
    except BadRow as fault:
        return fault.reason
    require_fields(sample, ("input", "answer", "other_answer", "better"), kind=_KIND, place=place)
    if sample["better"] is None:
        return TIED_PAIR
    answers = (sample["answer"], sample["other_answer"])
    chosen, rejected = answers if sample["better"] else answers[::-1]
    if chosen.split() == rejected.split():
        return IDENTICAL_PAIR
    return Pair(_prompt(sample), chosen, rejected, WITHOUT_SUBSET) if _has_prompt(sample) else EMPTY_PROMPT


def _prompt(sample: RawSample) -> Any:
    tools = sample.get("tools")
    return {"messages": [*conversation(sample["input"]).messages], "tools": tools} if tools else sample["input"]


def _has_prompt(sample: RawSample) -> bool:
    return bool(conversation(sample["input"]).messages[-1].get("content"))
