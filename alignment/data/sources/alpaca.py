"""Stanford Alpaca: instructions with one answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alignment.data.raw.layouts import conversions
from alignment.data.sources.hub import HubDataset
from alignment.data.sources.tables import column
from alignment.records import RawSample


class AlpacaDataset(HubDataset):
    """``instruction`` (with ``input``, if any, after a space) and ``output``."""

    NAME = "alpaca"
    ALIASES = ("stanford-alpaca",)
    HUB_ID, SPLIT = "tatsu-lab/alpaca", "train"

    def convert(self, row: Mapping[str, Any], place: str) -> RawSample:
        """Join instruction and input; ``input`` may be missing or null."""
        for name in ("instruction", "output"):
            column(row, name, place)
        return conversions.alpaca("output")(row, place)
