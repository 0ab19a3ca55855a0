"""Raw datasets by name, and the four tokenised datasets made from them (numpy only)."""

from alignment.data.dataset_spec import parse_dataset
from alignment.data.preference import PreferenceDataset
from alignment.data.prompt_only import PromptOnlyDataset
from alignment.data.raw_dataset import RawDataset
from alignment.data.safety_preference import SafetyPreferenceDataset
from alignment.data.supervised import SupervisedDataset
from alignment.records import RawSample

__all__ = [
    "PreferenceDataset",
    "PromptOnlyDataset",
    "RawDataset",
    "RawSample",
    "SafetyPreferenceDataset",
    "SupervisedDataset",
    "parse_dataset",
]
