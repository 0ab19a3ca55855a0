"""Tokenizers that PaddleNLP saved give its ids and its conversations; see ``benchmarks/paddlenlp_tokenizers.py``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from alignment.errors import DataError, ModelFolderError
from alignment.models.tokenizer.tokenizer import load_tokenizer

FOLDERS = Path(__file__).parent / "paddlenlp_tokenizers"
RECORDS = {name: json.loads((FOLDERS / name / "ids.json").read_text(encoding="utf-8")) for name in ("llama", "qwen2")}


@pytest.fixture(params=["read", "saved and read"])
def load(request, tmp_path):
    """Load a tokenizer of PaddleNLP, or what is saved of it."""

    def load(name):
        tokenizer = load_tokenizer(FOLDERS / name)
        if request.param == "read":
            return tokenizer
        tokenizer.save(tmp_path)
        names = {path.name for path in tmp_path.iterdir()}
        assert not names & {"sentencepiece.bpe.model", "chat_template.json"}
        assert names & {"tokenizer.model", "tokenizer.json"}
        return load_tokenizer(tmp_path)

    return load


@pytest.mark.parametrize("name", RECORDS)
def test_ids_and_texts_are_those_of_paddlenlp(load, name):
    tokenizer = load(name)
    for record in RECORDS[name]["texts"]:
        assert tokenizer.encode(record["text"]) == record["ids"], record["text"]
        assert tokenizer.encode(record["text"], add_special_tokens=False) == record["plain"], record["text"]
        assert tokenizer.decode(record["plain"]) == record["decoded"], record["text"]
    assert len(tokenizer) == RECORDS[name]["length"]
    found = {"bos": tokenizer.bos_token_id, "eos": tokenizer.eos_token_id, "pad": tokenizer.pad_token_id}
    assert found == RECORDS[name]["special"]


@pytest.mark.parametrize("name", RECORDS)
def test_conversations_are_those_of_paddlenlp(load, name):
    tokenizer = load(name)
    for record in RECORDS[name]["chats"]:
        assert tokenizer.apply_chat_template(record["messages"], add_generation_prompt=True) == record["text"]


def test_a_template_in_parts_refuses_other_roles():
    with pytest.raises(DataError, match="user and assistant in turn, and no other roles"):
        load_tokenizer(FOLDERS / "llama").apply_chat_template([{"role": "system", "content": "x"}])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "cannot be read as JSON"),
        (b"[]", "expected texts 'system', 'conversation'"),
        (b'{"conversation": [1]}', "expected texts 'system', 'conversation'"),
        (b'{"query": "x"}', "expected texts 'system', 'conversation'"),
    ],
)
def test_a_damaged_template_file_is_named(tmp_path, content, message):
    folder = shutil.copytree(FOLDERS / "llama", tmp_path / "t")
    (folder / "chat_template.json").write_bytes(content)
    with pytest.raises(ModelFolderError, match=rf"chat_template\.json: {message}"):
        load_tokenizer(folder)


def test_a_template_of_transformers_in_a_file_of_that_name_is_read(tmp_path):
    folder = shutil.copytree(FOLDERS / "llama", tmp_path / "t")
    (folder / "chat_template.json").write_text('{"chat_template": "{{ messages[0].content }}!"}')
    assert load_tokenizer(folder).apply_chat_template([{"role": "user", "content": "hi"}]) == "hi!"


def test_vocabulary_and_merges_of_an_unknown_class_are_refused(tmp_path):
    folder = shutil.copytree(FOLDERS / "qwen2", tmp_path / "t")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "tokenizer_class": "GPT2Tokenizer"}))
    with pytest.raises(
        ModelFolderError, match=r"tokenizer_class 'GPT2Tokenizer' is not known \(known: Qwen2Tokenizer\)"
    ):
        load_tokenizer(folder)


def test_two_sentencepiece_models_that_differ_are_refused(tmp_path):
    folder = shutil.copytree(FOLDERS / "llama", tmp_path / "t")
    shutil.copy(folder / "sentencepiece.bpe.model", folder / "tokenizer.model")
    load_tokenizer(folder)
    (folder / "tokenizer.model").write_bytes(b"other")
    with pytest.raises(ModelFolderError, match=r"sentencepiece\.bpe\.model and tokenizer\.model differ"):
        load_tokenizer(folder)


def test_legacy_is_ignored_as_in_paddlenlp(tmp_path):
    folder = shutil.copytree(FOLDERS / "llama", tmp_path / "t")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "legacy": False}))
    tokenizer = load_tokenizer(folder)
    for record in RECORDS["llama"]["texts"]:
        assert tokenizer.encode(record["text"]) == record["ids"], record["text"]


def test_white_space_around_a_special_token_stays_where_another_suite_wrote_the_files(tmp_path):
    folder = shutil.copytree(FOLDERS / "qwen2", tmp_path / "t")
    (folder / "config.json").unlink()
    text = "<|im_end|>\n<|im_start|>"
    assert load_tokenizer(folder).encode(text) == [373, 198, 372]
    assert load_tokenizer(FOLDERS / "qwen2").encode(text) == [373, 372]
