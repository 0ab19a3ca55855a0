"""The examples of the reference suite's documentation run as they are written there."""

from __future__ import annotations

import sys

import numpy as np
import pytest

import alignment.data.raw.modules as modules
from alignment.data.encode import Encoder

NAME = "test-documented"
EXAMPLE = """
from data import RawDataset, RawSample

class MyRawDataset(RawDataset):
    NAME = 'my-dataset-name'

    def __init__(self, path=None) -> None:
        self.data = [{
            'col1': 'question',
            'col2': 'answer1',
            'col3': 'answer2',
            'col4': 1,  # score of answer1
            'col5': 2  # score of answer2
        }] * 10  # dummy data for example

    def __getitem__(self, index: int) -> RawSample:
        data = self.data[index]
        return RawSample(
            input=data['col1'],
            answer=data['col2'],
            other_answer=data['col3'],
            better=float(data['col4']) > float(data['col5']),
        )

    def __len__(self) -> int:
        return len(self.data)  # dataset size
"""


@pytest.fixture(scope="module")
def documented(tmp_path_factory):
    """Register the dataset of the example."""
    folder = tmp_path_factory.mktemp("documented")
    (folder / "example.py").write_text(EXAMPLE.replace("my-dataset-name", NAME))
    modules.load_dataset_modules(["example.py"], folder)
    yield
    sys.modules.pop(modules.ALIAS, None)  # other tests begin without it


@pytest.mark.parametrize("lazily", [True, False])
def test_a_dataset_by_names_and_shares_with_its_collator(documented, tokenizer, lazily):
    from alignment.data import PreferenceDataset

    dataset = PreferenceDataset({NAME: 0.5}, tokenizer, lazy_tokenization=lazily, seed=42)
    assert len(dataset) == 5
    batch = dataset.get_collator()([dataset[0], dataset[4]])
    text = tokenizer.decode(batch["better_input_ids"][0], skip_special_tokens=False)
    assert text == "BEGINNING OF CONVERSATION : USER : question ASSISTANT : answer2 </s>"
    assert tokenizer.decode(batch["worse_input_ids"][1][-2:], skip_special_tokens=False) == "answer1 </s>"
    assert batch["better_attention_mask"].all() and batch["better_attention_mask"].shape == (2, 11)


def test_collators_are_made_of_a_padding_id_too(tokenizer):
    from alignment.data import PreferenceCollator, PromptOnlyCollator, SafetyPreferenceCollator, SupervisedCollator

    ids = [np.array([5, 6]), np.array([7])]
    supervised = SupervisedCollator(0)([{"input_ids": row, "labels": row} for row in ids])
    assert supervised["input_ids"].tolist() == [[5, 6], [7, 0]] and supervised["labels"].tolist() == [[5, 6], [7, -100]]
    prompts = [{"input_ids": row, "sample_id": 0, "label": None, "prompt_text": ""} for row in ids]
    assert PromptOnlyCollator(0)(prompts)["input_ids"].tolist() == [[5, 6], [0, 7]]
    pair = {"better_input_ids": ids[0], "worse_input_ids": ids[1], "prompt_length": 1}
    assert PreferenceCollator(0)([pair])["worse_attention_mask"].tolist() == [[True, False]]
    assert SafetyPreferenceCollator is not None


class Counting:
    """Counts the characters that a tokenizer is given."""

    def __init__(self, tokenizer):
        self._tokenizer, self.characters, self.calls = tokenizer, 0, 0

    def __getattr__(self, name):
        return getattr(self._tokenizer, name)

    def __call__(self, text, add_special_tokens=True):
        self.characters, self.calls = self.characters + len(text), self.calls + 1
        return self._tokenizer(text, add_special_tokens)

    def encode_cut(self, text, cuts, add_special_tokens=True):
        self.characters, self.calls = self.characters + len(text), self.calls + 1
        return self._tokenizer.encode_cut(text, cuts, add_special_tokens)


def test_a_dialogue_is_tokenised_once_however_many_turns_it_has(tmp_path):
    from alignment.models.tokenizer.tokenizer import load_tokenizer
    from tests.interop.test_tokenizers import CHATML, byte_level_bpe, write

    write(tmp_path, byte_level_bpe(), chat_template=CHATML, eos_token="<|im_end|>")
    for template in ("pku", "tokenizer"):
        counting = Counting(load_tokenizer(tmp_path))
        encoder = Encoder(counting, template)
        counting.characters = counting.calls = 0
        turns = [f"turn {number} of many" for number in range(40)]
        dialogue = encoder.encode_dialogue(turns)
        text = counting.decode(dialogue.prompt_ids + dialogue.body_ids, skip_special_tokens=False)
        assert (counting.calls, counting.characters) == (1, len(text)), template
        assert sum(dialogue.body_targets) > 100 and text.count("of many") == 40
