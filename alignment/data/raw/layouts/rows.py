"""Turn a table of rows into samples: find each row's layout, convert it, and report which columns were read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from alignment.data.ledger import BadRow
from alignment.data.raw.layouts.layout import Row, RowLayout, RowPlace
from alignment.data.raw.layouts.mapping import map_row
from alignment.data.raw.layouts.rated import rated_layout
from alignment.data.raw.layouts.recognise import (
    SYSTEM,
    TOOLS,
    add_context,
    check_unread,
    larger_layouts,
    layout_named,
    only_layout,
    recognise,
)
from alignment.data.raw.raw_sample import FIELDS
from alignment.errors import DataError
from alignment.records import RawSample
from alignment.telemetry.wording import counted

_PADDED = ("input", "answer", "other_answer", "better")
"""Fields that count as null, not as missing, in a row that holds a null."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How the user wants rows to be read."""

    columns: Mapping[str, str]
    """Field to column; empty: the layout is recognised."""
    layout: str | None = None
    """Name of the layout; None: recognise it."""
    ignored: frozenset[str] = frozenset()
    """Columns to ignore."""
    beside: Mapping[str, str] = field(default_factory=dict)
    """Field to column for what is read beside any layout."""
    attributes: tuple[str, ...] = ()
    """Columns of the attributes, a number each; a row may lack some. Read beside any layout too."""

    @property
    def apart(self) -> frozenset[str]:
        """The columns that do not count for the layout."""
        return self.ignored.union(self.beside.values(), self.attributes)


class _Item(NamedTuple):
    """One sample to make: a row, its layout (None: named columns), and the number of the sample within the row."""

    index: int
    row: Row
    layout: RowLayout | None
    part: int


class SampleRows:
    """The samples of ``rows``; ``place_of`` describes where a row comes from."""

    def __init__(self, rows: Sequence[Row], reading: Reading, place_of: Callable[[int], str]) -> None:
        self._reading = reading
        self._place_of = place_of
        self._unread: dict[str, None] = {}
        self._counts: Counter[str] = Counter()
        self._says: dict[str, str] = {}
        self._torn: Counter[tuple[str, tuple[str, ...]]] = Counter()
        """Number of rows by (layout, null columns that keep the row from a larger layout)."""
        self._rows = rows
        self._apart = reading.apart
        kept = [self._without_apart(row) for row in rows] if self._apart else rows
        self._items = self._mapped(kept) if reading.columns else self._recognised(kept)

    def __len__(self) -> int:
        return len(self._items)

    def place(self, number: int) -> str:
        """Describe where sample ``number`` comes from."""
        return self._place_of(self._items[number].index)

    def index(self, number: int) -> int:
        """Return the number of the row that sample ``number`` is read from."""
        return self._items[number].index

    def sample(self, number: int) -> RawSample:
        """Return sample ``number``; a row that cannot be read is a ``DataError`` that names it."""
        item = self._items[number]
        place = RowPlace(self._place_of, item.index)
        row = _without_nulls(item.row)
        if item.layout is None and self._reading.columns:
            self._check_named(item.row, place)
            sample, read = map_row(row, self._reading.columns, place)
            renamed = {**row, **{what: row[name] for what, name in self._reading.columns.items() if name in row}}
        else:
            layout = only_layout(recognise(item.row, place), place) if item.layout is None else item.layout
            read, renamed = layout.reads, row
            sample = layout.samples(row, place)[item.part] if layout.samples else layout.convert(row, place)
        check_unread(row, read, place)
        sample = add_context(sample, renamed, place)
        if self._reading.beside or self._reading.attributes:
            sample = self._add_beside(sample, item, place)
        return _padded(sample, item.row) if len(row) < len(item.row) else sample

    def notes(self) -> list[str]:
        """Return log lines: the layouts that were recognised, and the columns that were not read."""
        lines = [
            f"{counted(count, 'row')} read as {name}"
            f"{f' ({self._says[name]})' if self._says[name] else ''}{self._lacking(name)}"
            for name, count in self._counts.items()
        ]
        if self._unread:
            lines.append(f"columns not read: {', '.join(self._unread)}{self._scores_hint()}")
        return lines

    def _scores_hint(self) -> str:
        """Say how the scores of a pair are read, if columns that are not read are called after them."""
        if not {"score_chosen", "score_rejected"} <= self._unread.keys():
            return ""
        return " (scores decide which answer is the better one if chosen_score_key and rejected_score_key name them)"

    def _lacking(self, name: str) -> str:
        """Describe the rows that have the layout ``name`` only because of nulls, which leave other columns unread."""
        return "".join(
            f", {count} of them only because of null in {', '.join(map(repr, lost))}"
            for (layout, lost), count in self._torn.items()
            if layout == name
        )

    def _check_named(self, row: Row, place: object) -> None:
        for name in self._reading.columns.values():
            if name not in row:
                raise DataError(f"{place}: missing column {name!r}")

    def _without_apart(self, row: Row) -> Row:
        return {name: value for name, value in row.items() if name not in self._apart}

    def _add_beside(self, sample: RawSample, item: _Item, place: object) -> RawSample:
        """Return the sample with the fields that are read beside its layout."""
        if "attributes" in sample:
            return sample
        row, beside = self._rows[item.index], self._reading.beside
        for name in beside.values():
            if name not in row:
                raise DataError(f"{place}: missing column {name!r}")
        if item.layout is not None and (item.layout.gather or item.layout.samples):
            raise DataError(
                f"{place}: a row of the layout {item.layout.name!r} is not one sample, so "
                f"{', '.join((*beside.values(), *self._reading.attributes))} cannot be read with it; name the columns "
                "(input_key, output_key, ...)"
            )
        found = {what: row[name] for what, name in beside.items()}
        if self._reading.attributes:
            found["attributes"] = [row.get(name) for name in self._reading.attributes]
        return RawSample(**{**sample, **found})

    def _mapped(self, rows: Sequence[Row]) -> list[_Item]:
        columns = self._reading.columns
        named = ", ".join(f"{what} in {name}" for what, name in columns.items())
        self._note(f"named columns ({named})", "", len(rows), rows, set(columns.values()))
        return [_Item(index, row, None, 0) for index, row in enumerate(rows)]

    def _recognised(self, rows: Sequence[Row]) -> list[_Item]:
        """Return the items in row order; a row without exactly one layout is refused when it is read."""
        groups: dict[str, list[int]] = {}
        layouts: dict[str, RowLayout | None] = {}
        seen: dict[Any, str] = {}
        for index, row in enumerate(rows):
            key = _columns_of(row)
            if key not in seen:
                layout = self._layout_of(row)
                seen[key] = layout.name if layout else ""
                layouts[seen[key]] = layout
            groups.setdefault(seen[key], []).append(index)
        items = [self._items_of(rows, indices, layouts[name]) for name, indices in groups.items()]
        if len(items) == 1:
            return items[0]
        return sorted((item for group in items for item in group), key=lambda item: (item.index, item.part))

    def _layout_of(self, row: Row) -> RowLayout | None:
        if self._reading.layout:
            return self._rated(layout_named(self._reading.layout, "layout"))
        try:
            found = recognise(row)
        except BadRow:
            return None
        return self._rated(found[0]) if len(found) == 1 else None

    def _rated(self, layout: RowLayout) -> RowLayout:
        """Return the layout, or what it is where attributes are read and a row has several answers with ratings."""
        asked = self._reading.attributes
        return (rated_layout(layout.name, asked) if asked else None) or layout

    def _items_of(self, rows: Sequence[Row], indices: Sequence[int], layout: RowLayout | None) -> list[_Item]:
        if layout is None:
            return [_Item(index, rows[index], None, 0) for index in indices]
        chosen = [rows[index] for index in indices]
        self._note(layout.name, layout.says, len(indices), chosen, layout.reads)
        if layout.gather is not None:
            gathered = layout.gather([_without_nulls(row) for row in chosen])
            pairs = [(indices[number], row) for number, row in gathered]
        else:
            pairs = list(zip(indices, chosen, strict=True))
        if layout.samples is None:
            return [_Item(index, row, layout, 0) for index, row in pairs]
        return [
            _Item(index, row, layout, part)
            for index, row in pairs
            for part in range(len(layout.samples(_without_nulls(row), self._place_of(index))))
        ]

    def _note(self, name: str, says: str, count: int, rows: Sequence[Row], read: frozenset[str] | set[str]) -> None:
        self._counts[name] += count
        self._says[name] = says
        known = {*read, *SYSTEM, *TOOLS}
        for (held, nulls), same in Counter(map(_columns_of, rows)).items():
            unread = [column for column in held if column not in known]
            larger = larger_layouts(held, [*held, *nulls]) if nulls and not self._reading.columns else []
            larger = [layout for layout in larger if layout.reads.intersection(unread)]
            if larger:
                self._torn[name, tuple(column for column in nulls if column in larger[0].needs)] += same
            self._unread |= dict.fromkeys(column for column in unread if not any(column in one.reads for one in larger))


def _columns_of(row: Row) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the columns that hold a value, and those that are null: they decide the layout."""
    if None not in row.values():
        return tuple(row), ()
    return tuple(name for name in row if row[name] is not None), tuple(name for name in row if row[name] is None)


def _without_nulls(row: Row) -> Row:
    if None not in row.values():
        return row
    return {name: value for name, value in row.items() if value is not None}


def _padded(sample: RawSample, row: Row) -> RawSample:
    """Return the sample with a null for each missing field whose column is null in the row."""
    nulls = [name for name in FIELDS if name in row and row[name] is None]
    return RawSample(**{**dict.fromkeys((*_PADDED, *nulls)), **sample})
