"""Raw datasets by name, and the four tokenised datasets made from them (numpy only)."""

from alignment.data.dataset_spec import parse_dataset
from alignment.data.preference import PreferenceCollator, PreferenceDataset
from alignment.data.prompt_only import PromptOnlyCollator, PromptOnlyDataset
from alignment.data.raw_dataset import RawDataset
from alignment.data.safety_preference import SafetyPreferenceCollator, SafetyPreferenceDataset
from alignment.data.supervised import SupervisedCollator, SupervisedDataset
from alignment.data.tokenized import TokenizedDataset
from alignment.records import RawSample

__all__ = [
    "PreferenceCollator",
    "PreferenceDataset",
    "PromptOnlyCollator",
    "PromptOnlyDataset",
    "RawDataset",
    "RawSample",
    "SafetyPreferenceCollator",
    "SafetyPreferenceDataset",
    "SupervisedCollator",
    "SupervisedDataset",
    "TokenizedDataset",
    "parse_dataset",
]
