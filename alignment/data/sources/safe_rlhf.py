"""PKU-SafeRLHF: two answers to a prompt, with the better one, the safer one, and a safety label for each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alignment.data.raw.layouts import conversions
from alignment.data.sources.hub import HubDataset
from alignment.data.sources.tables import column
from alignment.records import RawSample


class SafeRLHFDataset(HubDataset):
    """The column mapping shared by all sizes and splits."""

    def convert(self, row: Mapping[str, Any], place: str) -> RawSample:
        """Map ``prompt, response_0, response_1`` and the four labels."""
        for name in conversions.SAFE_RLHF:
            column(row, name, place)
        return conversions.safe_rlhf(row, place)


class SafeRLHFTrainDataset(SafeRLHFDataset):
    """Training split."""

    NAME = "PKU-SafeRLHF/train"
    ALIASES = ("PKU-Alignment/PKU-SafeRLHF/train",)
    HUB_ID, SPLIT = "PKU-Alignment/PKU-SafeRLHF", "train"


class SafeRLHFTestDataset(SafeRLHFDataset):
    """Test split."""

    NAME = "PKU-SafeRLHF/test"
    ALIASES = ("PKU-Alignment/PKU-SafeRLHF/test",)
    HUB_ID, SPLIT = "PKU-Alignment/PKU-SafeRLHF", "test"


class SafeRLHF30KTrainDataset(SafeRLHFDataset):
    """Training split of the 30K subset."""

    NAME = "PKU-SafeRLHF-30K/train"
    ALIASES = ("PKU-Alignment/PKU-SafeRLHF-30K/train",)
    HUB_ID, SPLIT = "PKU-Alignment/PKU-SafeRLHF-30K", "train"


class SafeRLHF30KTestDataset(SafeRLHFDataset):
    """Test split of the 30K subset."""

    NAME = "PKU-SafeRLHF-30K/test"
    ALIASES = ("PKU-Alignment/PKU-SafeRLHF-30K/test",)
    HUB_ID, SPLIT = "PKU-Alignment/PKU-SafeRLHF-30K", "test"


class SafeRLHF10KTrainDataset(SafeRLHFDataset):
    """The 10K subset."""

    NAME = "PKU-SafeRLHF-10K/train"
    ALIASES = ("PKU-Alignment/PKU-SafeRLHF-10K/train",)
    HUB_ID, SPLIT = "PKU-Alignment/PKU-SafeRLHF-10K", "train"
