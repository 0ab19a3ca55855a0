"""PKU-SafeRLHF: two answers to a prompt, with the better one, the safer one, and a safety label for each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alignment.data.sources.hub import HubDataset
from alignment.data.sources.tables import column
from alignment.errors import DataError
from alignment.records import RawSample


class SafeRLHFDataset(HubDataset):
    """The column mapping shared by all sizes and splits."""

    def convert(self, row: Mapping[str, Any], place: str) -> RawSample:
        """Map ``prompt, response_0, response_1`` and the four labels."""
        return RawSample(
            input=column(row, "prompt", place),
            answer=column(row, "response_0", place),
            other_answer=column(row, "response_1", place),
            better=_is_first(row, "better_response_id", place),
            safer=_is_first(row, "safer_response_id", place),
            is_safe=column(row, "is_response_0_safe", place),
            is_other_safe=column(row, "is_response_1_safe", place),
        )


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


def _is_first(row: Mapping[str, Any], name: str, place: str) -> bool:
    value = column(row, name, place)
    if isinstance(value, bool) or value not in (0, 1, "0", "1"):
        raise DataError(f"{place}: column {name!r} is {value!r} (allowed: 0 or 1)")
    return int(value) == 0
