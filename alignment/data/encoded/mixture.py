"""The rows of several raw datasets in mixed order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from alignment.data.ledger import BadRow, Ledger
from alignment.data.raw.dataset_spec import DatasetSpec
from alignment.data.raw.layouts.layout import RowPlace
from alignment.data.raw.mixing import count_rows, select_rows
from alignment.data.raw.raw_dataset import RawDataset
from alignment.data.raw.raw_sample import check_sample
from alignment.data.sources.tables import MissingPathError
from alignment.errors import DataError, UserError
from alignment.records import RawSample

MAX_ROWS = 100_000_000
"""Most rows that one dataset may contribute; a larger number is taken for a typing error."""


class Row(NamedTuple):
    """One selected row."""

    position: int
    """Position in the mixed order."""
    dataset: str
    """Label of its dataset."""
    index: int
    """Index in the raw dataset."""
    place: object
    """Where it comes from; its ``str`` is used in messages."""
    sample: RawSample
    fault: BadRow | None = None
    """Why no dataset kind can use the row; ``sample`` is empty then."""
    part: int = 0
    """Which part it is, if a dataset kind splits rows."""


class Mixture:
    """The type-checked rows of several datasets, one dataset after the other in the order of their specs."""

    def __init__(self, specs: Sequence[DatasetSpec], *, seed: int, ledger: Ledger | None = None) -> None:
        """Open the datasets and add their notes to ``ledger``; one that fails or has no rows is a ``DataError``."""
        sources = [_open(spec) for spec in specs]
        for spec, source in zip(specs, sources, strict=True):
            for note in source.notes() if ledger is not None else ():
                ledger.add_note(spec.label, note)
        sizes = [_checked_size(spec, source) for spec, source in zip(specs, sources, strict=True)]
        selected = select_rows(sizes, [spec.proportion for spec in specs], seed=seed)
        self._parts = list(zip(specs, sources, selected, strict=True))

    def __len__(self) -> int:
        return sum(len(indices) for _, _, indices in self._parts)

    def __iter__(self) -> Iterator[Row]:
        """Yield every selected row; a value of the wrong type is a ``DataError``."""
        position = 0
        for spec, source, indices in self._parts:
            for index in indices.tolist():
                place = RowPlace(source.describe_row, index)
                sample, fault = _checked(source, index, place)
                yield Row(position, spec.label, index, place, sample, fault)
                position += 1


def _open(spec: DatasetSpec) -> RawDataset:
    try:
        return RawDataset.load(spec.name, **spec.arguments)
    except MissingPathError as error:
        raise DataError(f"{error}" + (f", nor found in {spec.base_dir}" if spec.base_dir else "")) from error
    except UserError:
        raise
    except Exception as error:  # the constructor may be a user's: report what it raised as a problem of that dataset
        raise DataError(
            f"dataset {spec.label!r} with arguments {dict(spec.arguments)!r} could not be built: "
            f"{type(error).__name__}: {error}"
        ) from error


def _checked(source: RawDataset, index: int, place: RowPlace) -> tuple[RawSample, BadRow | None]:
    try:
        return check_sample(_read(source, index, place), place), None
    except BadRow as fault:
        return RawSample(), fault


def _read(source: RawDataset, index: int, place: RowPlace) -> Any:
    try:
        return source[index]
    except UserError:
        raise
    except Exception as error:  # the dataset may be a user's, as above
        raise DataError(f"{place} could not be read: {type(error).__name__}: {error}") from error


def _checked_size(spec: DatasetSpec, source: RawDataset) -> int:
    size = len(source)
    if size == 0:
        raise DataError(f"dataset {spec.label!r} holds no rows")
    wanted = count_rows(size, spec.proportion)
    if wanted > MAX_ROWS:
        raise DataError(
            f"dataset {spec.label!r}: proportion {spec.proportion} of {size} rows asks for "
            f"{wanted:.3g} rows (at most {MAX_ROWS:,})"
        )
    if wanted == 0:
        raise DataError(f"dataset {spec.label!r}: proportion {spec.proportion} of {size} rows rounds to 0 rows")
    return size
