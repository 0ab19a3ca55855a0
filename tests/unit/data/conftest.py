"""A small word-level tokenizer that satisfies the protocol, and a way to write files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from alignment.data.raw.raw_dataset import RawDataset

WORDS = (
    *("BEGINNING", "OF", "CONVERSATION", ":", "USER", "ASSISTANT"),
    *"abcdefghqxyz",
    *("hi", "question", "answer1", "answer2"),
)


class WordTokenizer:
    """Words and punctuation apart; ``</s>`` inside text becomes its id; the chat template is ``[u] .. [a] ..``."""

    eos_token, bos_token = "</s>", "<s>"
    chat_template: str | None = "a template"

    def __init__(self, *, has_pad: bool = True, adds_bos: bool = False, adds_eos: bool = False) -> None:
        vocabulary = {word: i for i, word in enumerate(("<pad>", "<s>", "</s>", "<unk>", "[u]", "[a]", *WORDS))}
        self._tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
        self._tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        self._tokenizer.add_special_tokens(["<pad>", "<s>", "</s>", "[u]", "[a]"])
        self.eos_token_id, self.bos_token_id = 2, 1
        self.pad_token_id = 0 if has_pad else None
        self._adds_bos, self._adds_eos = adds_bos, adds_eos

    def __call__(self, text: str, *, add_special_tokens: bool = True) -> dict[str, list[int]]:
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        if add_special_tokens:
            ids = [1] * self._adds_bos + ids + [2] * self._adds_eos
        return {"input_ids": ids}

    def __len__(self) -> int:
        return self._tokenizer.get_vocab_size()

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        return self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=skip_special_tokens)

    def apply_chat_template(
        self, messages: Sequence[dict], *, tokenize: bool = False, add_generation_prompt: bool = True
    ) -> str:
        text = "<s> " + "".join(
            f"[u] {m['content']} " if m["role"] == "user" else f"[a] {m['content']} </s> " for m in messages
        )
        return text + "[a] " if add_generation_prompt else text


class MergingTokenizer(WordTokenizer):
    """Turns ``:a`` (the end of the prompt and the answer ``a``) into one token, as byte-pair tokenizers may."""

    def __call__(self, text: str, *, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return super().__call__(text.replace("ASSISTANT:a", "ASSISTANT x"), add_special_tokens=add_special_tokens)


@pytest.fixture
def tokenizer() -> WordTokenizer:
    return WordTokenizer()


@pytest.fixture(scope="module")
def shared_tokenizer() -> WordTokenizer:
    """For hypothesis tests, which run many examples in one call; nothing may change it."""
    return WordTokenizer()


@pytest.fixture
def make_tokenizer() -> type[WordTokenizer]:
    return WordTokenizer


@pytest.fixture
def merging_tokenizer() -> MergingTokenizer:
    return MergingTokenizer()


@pytest.fixture
def write_jsonl(tmp_path: Path) -> Callable[..., Path]:
    def write(rows: Sequence[object], name: str = "rows.jsonl") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write


@pytest.fixture
def make_dataset() -> Iterator[Callable[..., str]]:
    """Register a dataset that serves the given rows and return its name."""

    def make(rows: Sequence[object], name: str = "rows") -> str:
        class Rows(RawDataset):
            NAME = f"test-{name}"

            def __getitem__(self, index: int):
                return rows[index]

            def __len__(self) -> int:
                return len(rows)

        return Rows.NAME

    return make
