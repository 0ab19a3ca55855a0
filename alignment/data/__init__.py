"""Raw datasets by name, and the tokenised datasets made from them (numpy only)."""

from alignment.data.encoded.attributes import AttributeDataset
from alignment.data.encoded.comparisons import ComparisonDataset
from alignment.data.encoded.preference import (
    LogMarginPreferenceDataset,
    MarginPreferenceDataset,
    PreferenceCollator,
    PreferenceDataset,
    UnpairedPreferenceCollator,
    UnpairedPreferenceDataset,
)
from alignment.data.encoded.prompt_only import PromptOnlyCollator, PromptOnlyDataset
from alignment.data.encoded.safety_preference import SafetyPreferenceCollator, SafetyPreferenceDataset
from alignment.data.encoded.steps import ProcessDataset
from alignment.data.encoded.supervised import SupervisedCollator, SupervisedDataset
from alignment.data.encoded.tokenized import TokenizedDataset
from alignment.data.raw.dataset_spec import parse_dataset
from alignment.data.raw.raw_dataset import RawDataset
from alignment.records import RawSample

__all__ = [
    "AttributeDataset",
    "ComparisonDataset",
    "LogMarginPreferenceDataset",
    "MarginPreferenceDataset",
    "PreferenceCollator",
    "PreferenceDataset",
    "ProcessDataset",
    "PromptOnlyCollator",
    "PromptOnlyDataset",
    "RawDataset",
    "RawSample",
    "SafetyPreferenceCollator",
    "SafetyPreferenceDataset",
    "SupervisedCollator",
    "SupervisedDataset",
    "TokenizedDataset",
    "UnpairedPreferenceCollator",
    "UnpairedPreferenceDataset",
    "parse_dataset",
]
