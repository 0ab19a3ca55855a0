"""PKU-SafeRLHF: two answers to a prompt, which one is better, which one is safer, and a safety label for each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alignment.data.raw.layouts import conversions
from alignment.data.sources.hub import HubDataset
from alignment.data.sources.tables import column
from alignment.records import RawSample


class SafeRLHFDataset(HubDataset):
    """The column mapping of all subsets and splits; one subclass per entry of ``SPLITS``."""

    def convert(self, row: Mapping[str, Any], place: str) -> RawSample:
        """Map ``prompt, response_0, response_1`` and the four labels."""
        for name in conversions.SAFE_RLHF:
            column(row, name, place)
        return conversions.safe_rlhf(row, place)


SPLITS = {
    "PKU-SafeRLHF": ("train", "test"),
    "PKU-SafeRLHF-30K": ("train", "test"),
    "PKU-SafeRLHF-10K": ("train",),
}
"""Hub dataset to its splits; each split is a dataset NAME/SPLIT."""
for _dataset, _splits in SPLITS.items():
    for _split in _splits:
        _hub_id = f"PKU-Alignment/{_dataset}"
        _names = {"NAME": f"{_dataset}/{_split}", "ALIASES": (f"{_hub_id}/{_split}",)}
        type(f"{_dataset}_{_split}", (SafeRLHFDataset,), {**_names, "HUB_ID": _hub_id, "SPLIT": _split})
