"""Datasets of the Hugging Face hub, or local copies of them."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from alignment.data.raw.raw_dataset import RawDataset
from alignment.data.sources.folders import Splits, choose_split
from alignment.data.sources.tables import MissingPathError, Table, read_table
from alignment.errors import DataError, UserError
from alignment.records import RawSample

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


class HubDataset(RawDataset):
    """The dataset ``HUB_ID``, or another hub dataset, local file or folder given as ``path``."""

    HUB_ID: ClassVar[str]
    SPLIT: ClassVar[str]

    def __init__(self, path: str | None = None) -> None:
        self._table = open_table(self.NAME, path or self.HUB_ID, splits=(self.SPLIT,))

    @abstractmethod
    def convert(self, row: Mapping[str, Any], place: str) -> RawSample:
        """Convert one row to a sample."""

    def __getitem__(self, index: int) -> RawSample:
        return self.convert(self._table.rows[index], self.describe_row(index))

    def __len__(self) -> int:
        return len(self._table.rows)

    def notes(self) -> list[str]:
        """Return which split of a folder was read."""
        return self._table.notes()

    def describe_row(self, index: int) -> str:
        """Describe the row by its dataset, file and line."""
        return f"dataset {self.NAME!r}, row {index}: {self._table.describe(index)}"


def open_table(name: str, path: str, *, splits: Splits | None = None) -> Table:
    """Read ``path`` if it exists locally; download it if it has the form ``owner/name``.

    The first of ``splits`` that exists is read; None: all of a folder, or ``train`` of a hub dataset.
    """
    if Path(path).expanduser().exists():
        return read_table(path, splits=splits)
    if not _HUB_NAME.fullmatch(path):
        raise MissingPathError(
            f"dataset {name!r}: path {path!r} is neither a file or folder (current folder: {Path.cwd()}) "
            "nor a hub name of the form owner/name"
        )
    split, rows = _download(name, path, splits)
    return Table(rows, None, f"{path} [{split}]")


def _download(name: str, hub_id: str, splits: Splits | None) -> tuple[str, Any]:
    advice = f"give a local copy (file or folder) as the third part: '{name}:1.0:PATH'"
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise DataError(
            f"dataset {name!r} comes from the hub ({hub_id}), which needs the package 'datasets' "
            f"(pip install datasets); or {advice}"
        ) from error
    try:
        split = splits[0] if splits else "train"
        if splits is None or len(splits) > 1:
            from datasets import get_dataset_split_names

            split = choose_split(get_dataset_split_names(hub_id), splits or ("train",), f"{hub_id} on the hub")
        return split, load_dataset(hub_id, split=split)
    except UserError:
        raise
    except Exception as error:  # offline, unknown, gated, damaged: the library raises many unrelated types
        raise DataError(
            f"dataset {name!r}: {hub_id} (split {' or '.join(map(repr, splits or ('train',)))}) cannot be loaded from "
            f"the hub: {type(error).__name__}: {error}; {advice}"
        ) from error
