"""Recognise the layout of a row by its columns, and check the columns that the layout does not read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from alignment.data.ledger import NULL_FIELD, BadRow
from alignment.data.raw.layouts.layout import RowLayout
from alignment.data.raw.layouts.samples import with_context
from alignment.data.raw.layouts.table import LAYOUTS
from alignment.data.raw.layouts.turns import read_tools
from alignment.errors import DataError
from alignment.records import RawSample
from alignment.registry import near_matches

SYSTEM, TOOLS = ("system", "system_prompt"), ("tools", "functions")
"""Columns read with every layout, under either name."""
_CONTEXT = frozenset((*SYSTEM, *TOOLS))
MEANINGFUL = frozenset(
    (
        *("input", "instruction", "query", "question", "context", "history", "documents", "mask", "loss_mask"),
        *("image", "images", "video", "videos", "audio", "audios", "response_schema"),
        *("better", "safer", "is_safe", "is_other_safe", "desirable"),
    )
)
"""Columns that change what a row means: a row with a value in one that is not read is refused."""
_EMPTY: tuple[Any, ...] = (None, "", [], {}, ())


def recognise(row: Mapping[str, Any], place: object = "") -> list[RowLayout]:
    """Return the layouts that fit best: one, none, or several if the columns are ambiguous.

    Null columns count as missing. A row is a ``BadRow`` if only its nulls keep it from having a layout, or a larger one
    that adds a meaningful column (such as ``instruction`` to ``input`` and ``output``).
    """
    held = [name for name, value in row.items() if value is not None]
    found = _best(held)
    if len(held) == len(row):
        return found
    larger = larger_layouts(held, row)
    lost = sorted({name for layout in larger for name in layout.needs if row[name] is None})
    if lost and (not found or MEANINGFUL.intersection(lost)):
        raise BadRow(NULL_FIELD, f"{place}: null in {', '.join(map(repr, lost))}")
    return found


def larger_layouts(held: Sequence[str], columns: Iterable[str]) -> list[RowLayout]:
    """Return the layouts of ``columns`` that read more than that of ``held``, the columns that are not null."""
    read = {name for layout in _best(held) for name in layout.reads.intersection(held)}
    return [layout for layout in _best(columns) if read < layout.reads]


def layout_named(name: str, place: object) -> RowLayout:
    """Return the layout called ``name``."""
    known = {layout.name: layout for layout in LAYOUTS}
    if name not in known:
        raise DataError(f"{place}: unknown layout {name!r}{near_matches(name, known)} (known: {', '.join(known)})")
    return known[name]


def only_layout(found: list[RowLayout], place: object) -> RowLayout:
    """Return the one layout found; none or several is a ``DataError`` that says what to do."""
    if len(found) == 1:
        return found[0]
    if not found:
        raise DataError(
            f"{place}: no known layout has these columns; name them, for example input_key=... and output_key=... "
            "(known layouts: alignment/data/raw/layouts/table.py)"
        )
    names = " and as ".join(repr(layout.name) for layout in found)
    raise DataError(
        f"{place}: the row can be read as {names}; choose one with layout=NAME, name the columns (input_key, "
        "output_key, ...), or leave columns out with ignored_columns"
    )


def check_unread(row: Mapping[str, Any], read: Iterable[str], place: object) -> None:
    """Refuse a row with a value in a meaningful column that is not read."""
    lost = [name for name in row if name in MEANINGFUL and name not in read and not _is_empty(row[name])]
    if lost:
        raise DataError(
            f"{place}: column {lost[0]!r} changes the meaning of the row but is not read; name the columns (input_key, "
            f"...), or set ignored_columns={lost[0]} to leave it out"
        )


def take_context(row: Mapping[str, Any], place: object) -> tuple[str | None, list[dict[str, Any]] | None]:
    """Return the system message and the tools given in separate columns."""
    system, tools = (_only_value(row, names, place) for names in (SYSTEM, TOOLS))
    if system is not None and not isinstance(system, str):
        raise DataError(f"{place}: the system message must be text, got {system!r:.60}")
    return system, None if tools is None else read_tools(tools, f"{place}: tools")


def add_context(sample: RawSample, row: Mapping[str, Any], place: object) -> RawSample:
    """Add the row's system message and tools to the sample; a different system message inside is a ``DataError``."""
    if _CONTEXT.isdisjoint(row):
        return sample
    system, tools = take_context(row, place)
    turns = sample.get("messages") or sample.get("input")
    turns = turns if isinstance(turns, list) else []
    begins = [turn["content"] for turn in turns[:1] if isinstance(turn, Mapping) and turn["role"] == "system"]
    if system and begins:
        if begins != [system]:
            raise DataError(f"{place}: the system column differs from the system message of the conversation")
        system = None
    return with_context(sample, system, tools)


def _best(columns: Iterable[str]) -> list[RowLayout]:
    """Return the layouts whose required columns exist, without those that read a subset of what another one reads."""
    present = frozenset(columns)
    fitting = [layout for layout in LAYOUTS if present.issuperset(layout.needs)]
    read = {layout.name: present & layout.reads for layout in fitting}
    return [one for one in fitting if not any(read[one.name] < read[other.name] for other in fitting)]


def _only_value(row: Mapping[str, Any], names: Iterable[str], place: object) -> Any:
    values = [row[name] for name in names if not _is_empty(row.get(name))]
    if len(values) > 1 and values[0] != values[1]:
        raise DataError(f"{place}: columns {' and '.join(map(repr, names))} contradict each other")
    return values[0] if values else None


def _is_empty(value: Any) -> bool:
    return any(value is empty or (type(value) is type(empty) and value == empty) for empty in _EMPTY)
