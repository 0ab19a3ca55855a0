"""Stanford Alpaca: instructions with one answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alignment.data.sources.hub import HubDataset
from alignment.data.sources.tables import column
from alignment.errors import DataError
from alignment.records import RawSample


class AlpacaDataset(HubDataset):
    """``instruction`` (with ``input`` after a space when there is one) and ``output``."""

    NAME = "alpaca"
    ALIASES = ("stanford-alpaca",)
    HUB_ID, SPLIT = "tatsu-lab/alpaca", "train"

    def convert(self, row: Mapping[str, Any], place: str) -> RawSample:
        """Join instruction and input; ``input`` may be missing or null."""
        instruction, extra = column(row, "instruction", place), row.get("input") or ""
        for name, value in (("instruction", instruction), ("input", extra)):
            if not isinstance(value, str):
                raise DataError(f"{place}: column {name!r} must be a string, got {type(value).__name__} {value!r:.60}")
        return RawSample(input=f"{instruction} {extra}" if extra else instruction, answer=column(row, "output", place))
