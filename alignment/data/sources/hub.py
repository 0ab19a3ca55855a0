"""Datasets of the Hugging Face hub, or a local copy of them."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from alignment.data.raw_dataset import RawDataset
from alignment.data.sources.tables import MissingPathError, Table, read_table
from alignment.errors import DataError
from alignment.records import RawSample

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


class HubDataset(RawDataset):
    """A dataset at ``HUB_ID``; ``path`` names a local file or folder, or another hub dataset, to read instead."""

    HUB_ID: ClassVar[str]
    SPLIT: ClassVar[str]

    def __init__(self, path: str | None = None) -> None:
        self._table = open_table(self.NAME, path or self.HUB_ID, split=self.SPLIT)

    @abstractmethod
    def convert(self, row: Mapping[str, Any], place: str) -> RawSample:
        """Map the columns of one row to the fields of a sample."""

    def __getitem__(self, index: int) -> RawSample:
        return self.convert(self._table.rows[index], self.describe_row(index))

    def __len__(self) -> int:
        return len(self._table.rows)

    def describe_row(self, index: int) -> str:
        """Return the dataset, the row, and the file with its line where there is one."""
        return f"dataset {self.NAME!r}, row {index}: {self._table.describe(index)}"


def open_table(name: str, path: str, *, split: str) -> Table:
    """Read ``path`` when it exists here, else download it when it has the form ``owner/name``."""
    if Path(path).expanduser().exists():
        return read_table(path, split=split)
    if not _HUB_NAME.fullmatch(path):
        raise MissingPathError(
            f"dataset {name!r}: path {path!r} is neither a file or folder (current folder: {Path.cwd()}) "
            "nor a hub name of the form owner/name"
        )
    return Table(_download(name, path, split), None, f"{path} [{split}]")


def _download(name: str, hub_id: str, split: str) -> Any:
    advice = f"give a local copy (file or folder) as the third part: '{name}:1.0:PATH'"
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise DataError(
            f"dataset {name!r} comes from the hub ({hub_id}), which needs the package 'datasets' "
            f"(pip install datasets); or {advice}"
        ) from error
    try:
        return load_dataset(hub_id, split=split)
    except Exception as error:  # offline, unknown, gated, damaged: the library raises many unrelated types
        raise DataError(
            f"dataset {name!r}: {hub_id} (split {split!r}) cannot be loaded from the hub: "
            f"{type(error).__name__}: {error}; {advice}"
        ) from error
