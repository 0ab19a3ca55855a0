"""What every registered dataset keeps to, and every tokenised kind on every dataset that serves it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from alignment.data import (
    AttributeDataset,
    PreferenceDataset,
    ProcessDataset,
    PromptOnlyDataset,
    RawDataset,
    SafetyPreferenceDataset,
    SupervisedDataset,
    UnpairedPreferenceDataset,
)
from alignment.data.encode import EncodeOptions
from alignment.data.loader import BatchLoader
from alignment.data.raw.raw_dataset import _REGISTRY, is_registered
from alignment.data.raw.raw_sample import FIELDS, check_sample
from alignment.data.sources.packing import TOKENIZER
from alignment.errors import DataError

KINDS = {
    SupervisedDataset: [{"input", "answer"}, {"dialogue"}],
    UnpairedPreferenceDataset: [
        {"input", "answer", "desirable"},
        {"input", "answer", "other_answer", "better"},
    ],
    AttributeDataset: [{"input", "answer", "attributes"}],
    ProcessDataset: [{"input", "steps", "step_labels"}],
    PreferenceDataset: [{"input", "answer", "other_answer", "better"}],
    SafetyPreferenceDataset: [{"input", "answer", "other_answer", "safer", "is_safe", "is_other_safe"}],
    PromptOnlyDataset: [{"input"}],
}
PKU_ROWS = [
    {
        "prompt": f"pack rope {word}",
        "response_0": f"rope {word} done",
        "response_1": "rope um",
        "better_response_id": number % 2,
        "safer_response_id": 0,
        "is_response_0_safe": True,
        "is_response_1_safe": number % 2 == 0,
    }
    for number, word in enumerate(("lamp", "map", "hat", "soap", "tent"))
]
ALPACA_ROWS = [{"instruction": "pack", "input": f"rope {word}", "output": "rope"} for word in ("lamp", "map", "hat")]
JSON_ROWS = [{"src": f"pack {word}", "tgt": f"{word} done"} for word in ("lamp", "map", "hat")]


class PackingTokenizer:
    """The shipped word-level tokenizer behind the protocol, without the model layer's wrapper."""

    bos_token, eos_token, pad_token_id, eos_token_id, chat_template = "<bos>", "<eos>", 0, 2, "shipped"

    def __init__(self) -> None:
        self._tokenizer = Tokenizer.from_file(str(TOKENIZER / "tokenizer.json"))

    def __call__(self, text: str, *, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {"input_ids": self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids}

    def __len__(self) -> int:
        return self._tokenizer.get_vocab_size()

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        return self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=skip_special_tokens)

    def apply_chat_template(
        self, messages: Sequence[dict], *, tokenize: bool = False, add_generation_prompt: bool = True
    ) -> str:
        ends = {"user": "", "assistant": " <eos>"}
        turns = [f" <{m['role']}> {m['content']}{ends[m['role']]}" for m in messages]
        return "<bos>" + "".join(turns) + (" <assistant> " if add_generation_prompt else "")


@pytest.fixture(scope="module")
def tokenizer() -> PackingTokenizer:
    return PackingTokenizer()


@pytest.fixture(scope="module")
def local_path(tmp_path_factory: pytest.TempPathFactory):
    """Return the constructor arguments that make a dataset readable offline."""
    folder = tmp_path_factory.mktemp("data")
    for name, rows in (("pku", PKU_ROWS), ("alpaca", ALPACA_ROWS), ("jsonl", JSON_ROWS)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def arguments(name: str) -> dict[str, str]:
        if name.startswith("packing-"):
            return {}
        file = "pku" if name.startswith("PKU-") else name
        assert (folder / f"{file}.jsonl").is_file(), f"the contract test needs rows for the new dataset {name!r}"
        return {"path": str(folder / f"{file}.jsonl")}

    return arguments


assert is_registered("jsonl")  # imports alignment.data.sources
BUILT_IN = [name for name in _REGISTRY if not name.startswith("test-")]


def test_the_documented_datasets_are_registered():
    packing = ("sft", "preference", "prompts", "kto", "attributes", "steps")
    families = ("PKU-SafeRLHF", "PKU-SafeRLHF-30K", *map("packing-{}".format, packing))
    documented = {f"{family}/{split}" for family in families for split in ("train", "test")}
    assert set(BUILT_IN) >= documented | {"PKU-SafeRLHF-10K/train", "alpaca", "jsonl"}


@pytest.mark.parametrize("name", BUILT_IN)
def test_raw_dataset(name, local_path):
    dataset = RawDataset.load(name, **local_path(name))
    assert len(dataset) > 0 and name in dataset.describe_row(0)
    for index in (0, len(dataset) - 1):
        sample = dataset[index]
        assert set(sample) <= set(FIELDS)
        assert check_sample(sample, "here") == sample
        assert dataset[index] == sample
    train, test = dataset.split_train_test(0.5)
    assert len(train) + len(test) == len(dataset)


@pytest.mark.parametrize("template", ["pku", "tokenizer"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", BUILT_IN)
def test_tokenized_dataset(name, kind, template, local_path, tokenizer):
    arguments = local_path(name)
    fields = set(RawDataset.load(name, **arguments)[0])
    options = EncodeOptions(template=template, step_token="and")
    if not any(needed <= fields for needed in KINDS[kind]):
        with pytest.raises(DataError, match=f"'{name}', row .*missing .*fields present: input"):
            kind({name: arguments}, tokenizer, options=options)
        return
    size = min(len(RawDataset.load(name, **arguments)), 50)
    dataset = kind({name: {"proportion": f"{size}/-1", **arguments}}, tokenizer, options=options)
    sizes = dict(dataset.ledger.sizes())[name]
    dropped = sum(row.count for row in dataset.ledger.rows() if row.effect == "dropped")
    parts = 2 if kind is UnpairedPreferenceDataset and "other_answer" in fields else 1
    assert sizes["selected"] == parts * size == len(dataset) + dropped and sizes["used"] == len(dataset)
    for sample in dataset:
        check_ids(sample, tokenizer)
    batches = list(BatchLoader(dataset, batch_size=4, seed=0).iterate(1))
    assert sum(map(len, batches)) == len(dataset)
    for value in dataset.collate(batches[0]).values():
        assert len(value) == len(batches[0])


def check_ids(sample, tokenizer) -> None:
    """Every sequence is int64, fits, and holds EOS once, at its end, when it has an answer."""
    for key, ids in sample.items():
        if not key.endswith("input_ids"):
            continue
        assert ids.dtype == np.int64 and 0 < len(ids) <= 512 and ids.min() >= 0 and ids.max() < len(tokenizer)
        has_answer = set(sample) != {"input_ids", "sample_id", "label", "prompt_text", "raw_input"}
        assert (ids == tokenizer.eos_token_id).sum() == has_answer
        assert not has_answer or ids[-1] == tokenizer.eos_token_id


def test_the_data_layer_does_not_import_paddle():
    code = (
        "import sys, alignment.data, alignment.data.raw.modules, alignment.data.loader\n"
        "heavy = ('paddle', 'torch', 'datasets', 'tokenizers', 'pyarrow')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    root = Path(__file__).resolve().parents[2]
    shown = subprocess.run([sys.executable, "-c", code], cwd=root, check=True, capture_output=True, text=True).stdout
    assert shown.strip() == "[]"
