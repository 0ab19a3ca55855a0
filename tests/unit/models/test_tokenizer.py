"""Tokenizers from tokenizer.json folders: ids, special tokens, what is refused, and what makes two of them the same."""

from __future__ import annotations

import json
import shutil

import pytest
from tokenizers import Tokenizer as Library
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing

from alignment.data.encode import Encoder
from alignment.errors import DataError, ModelFolderError
from alignment.models.tokenizer.tokenizer import load_tokenizer

WORDS = ["<pad>", "<s>", "</s>", "<unk>", "a", "b", "c"]
CONFIG = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}


@pytest.fixture
def make(tmp_path):
    """Write a folder with a word-level tokenizer.json; keyword arguments are files beside it."""

    def build(name="model", *, words=WORDS, config=None, files=(), indent=None, change=lambda library: None):
        folder = tmp_path / name
        folder.mkdir()
        library = Library(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
        library.pre_tokenizer = WhitespaceSplit()
        change(library)
        (folder / "tokenizer.json").write_text(json.dumps(json.loads(library.to_str()), indent=indent))
        for file, value in {"tokenizer_config.json": CONFIG if config is None else config, **dict(files)}.items():
            (folder / file).write_text(value if isinstance(value, str) else json.dumps(value, indent=indent))
        return folder

    return build


def with_edges(library):
    library.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])


def test_the_shipped_tokenizer(repo_root):
    tokenizer = load_tokenizer(repo_root / "alignment" / "data" / "shipped" / "packing" / "tokenizer")
    messages = [{"role": "user", "content": "pack apple"}]
    text = "<bos> <user> pack apple <assistant> "
    assert tokenizer.apply_chat_template(messages) == text
    assert tokenizer.apply_chat_template(messages, tokenize=True) == tokenizer(text)["input_ids"] == [1, 4, 6, 12, 5]
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.bos_token_id, len(tokenizer)) == (2, 0, 1, 24)
    assert tokenizer.decode([1, 6, 12, 2]) == "pack apple"
    assert tokenizer.decode([1, 6, 12, 2], skip_special_tokens=False) == "<bos> pack apple <eos>"
    encoder = Encoder(tokenizer, "tokenizer")
    prompt = encoder.encode_prompt(["pack apple"])
    assert encoder.encode_answer(prompt, "apple done") == ([12, 7, 2], False)


def test_ids_tokens_and_length(make):
    tokenizer = load_tokenizer(make())
    assert tokenizer("a b zebra") == {"input_ids": [4, 5, 3]}
    assert tokenizer.encode("a</s>b<pad>") == [4, 2, 5, 0], "special tokens are found inside words"
    assert [tokenizer.id_to_token(i) for i in (0, 6, 7)] == ["<pad>", "c", None]
    assert tokenizer.vocab == {word: i for i, word in enumerate(WORDS)}
    assert (tokenizer.unk_token, tokenizer.unk_token_id) == ("<unk>", 3)
    assert tokenizer.decode([4, 99, 5]) == "a b", "rows of the embedding without a token are nothing"


def test_length_is_the_highest_id_plus_one(make):
    def leave_a_gap(library):
        library.model = WordLevel({"<unk>": 0, "a": 1, "z": 40}, unk_token="<unk>")

    tokenizer = load_tokenizer(make(config={}, change=leave_a_gap))
    assert (len(tokenizer), len(tokenizer.vocab)) == (41, 3)


def test_truncation_and_padding_of_the_file_are_off(make):
    def shorten(library):
        library.enable_truncation(2)
        library.enable_padding(length=4)

    assert load_tokenizer(make(change=shorten)).encode("a b c") == [4, 5, 6]


@pytest.mark.parametrize("config", [CONFIG, {**CONFIG, "add_bos_token": False, "add_eos_token": False}])
def test_tokenizer_json_says_what_stands_around_a_text(make, config):
    own = load_tokenizer(make("edges", config=config, change=with_edges))
    assert (own.encode("a"), own.encode("a", add_special_tokens=False)) == ([1, 4, 2], [4])
    assert load_tokenizer(make("plain", config={**CONFIG, "add_bos_token": True})).encode("a") == [4]


def test_tokens_that_only_the_configuration_names(make):
    listed = {"7": {"content": "<tool>", "special": False}, "8": {"content": "<end>", "special": True}}
    config = {**CONFIG, "added_tokens_decoder": listed, "additional_special_tokens": ["<more>"]}
    tokenizer = load_tokenizer(make(config=config))
    assert tokenizer.encode("a<tool>b<end><more>") == [4, 7, 5, 8, 9]
    assert (tokenizer.decode([4, 7, 5, 8, 9]), len(tokenizer)) == ("a <tool> b", 10)
    with pytest.raises(
        ModelFolderError, match=r"tokenizer_config.json: token '<tool>' has id 9; tokenizer.json says 7"
    ):
        load_tokenizer(make("other", config={"added_tokens_decoder": {"9": {"content": "<tool>"}}}))


def test_older_folders_name_special_tokens_in_files_of_their_own(make):
    special = {"eos_token": {"content": "c", "lstrip": False}, "bos_token": "<s>"}
    tokenizer = load_tokenizer(
        make(config=CONFIG, files={"special_tokens_map.json": special, "added_tokens.json": {"<x>": 7}})
    )
    assert (tokenizer.eos_token, tokenizer.eos_token_id, tokenizer.pad_token) == ("c", 6, "<pad>")
    assert tokenizer.encode("a<x>") == [4, 7]
    config = {**CONFIG, "added_tokens_decoder": {"2": {"content": "</s>", "special": True}}}
    newer = load_tokenizer(make("newer", config=config, files={"special_tokens_map.json": special}))
    assert newer.eos_token == "</s>"


def test_a_missing_end_token_is_an_error_only_when_asked_for(make):
    tokenizer = load_tokenizer(make(config={"bos_token": "<s>"}))
    assert tokenizer.encode("a") == [4]
    assert (tokenizer.pad_token, tokenizer.pad_token_id, tokenizer.unk_token_id) == (None, None, None)
    assert tokenizer.fingerprint()
    for name in ("eos_token", "eos_token_id"):
        with pytest.raises(ModelFolderError, match="no end-of-text token"):
            getattr(tokenizer, name)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "looked for tokenizer.json and tokenizer.model, found vocab.txt"),
        ({"tokenizer.json": "{"}, "tokenizer.json: cannot be read as a tokenizer"),
        (
            {"tokenizer.json": "{}", "tokenizer_config.json": "[1]"},
            "tokenizer_config.json: expected a JSON object, found",
        ),
        ({"tokenizer.json": "{}", "added_tokens.json": "nope"}, "added_tokens.json: cannot be read as JSON"),
    ],
)
def test_damaged_folders_are_named(tmp_path, files, message):
    for name, text in {"vocab.txt": "a", **files}.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ModelFolderError, match=message) as caught:
        load_tokenizer(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(ModelFolderError, match=r"nowhere: no such folder; expected a tokenizer \(tokenizer.json or"):
        load_tokenizer(tmp_path / "nowhere")


def test_chat_template_is_a_text_a_list_or_a_file(make):
    named = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": "{{ bos_token }}!"}]
    tokenizer = load_tokenizer(make("list", config={**CONFIG, "chat_template": named}))
    assert (tokenizer.chat_template, tokenizer.apply_chat_template([])) == ("{{ bos_token }}!", "<s>!")
    folder = make("file", config={**CONFIG, "chat_template": "old"}, files={"chat_template.jinja": "new"})
    assert load_tokenizer(folder).chat_template == "new"
    with pytest.raises(ModelFolderError, match="chat_template names 'tool_use', but no 'default'"):
        load_tokenizer(make("none", config={"chat_template": named[:1]}))
    without = load_tokenizer(make("without"))
    assert without.chat_template is None
    with pytest.raises(DataError, match="no chat template"):
        without.apply_chat_template([])


def test_saved_files_are_the_same_bytes_even_when_the_source_is_gone(make, tmp_path):
    files = {"special_tokens_map.json": '{ "eos_token" :"c"}', "chat_template.jinja": "hi", "notes.txt": "mine"}
    folder = make(files=files, indent=3)
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "notes.txt"}
    tokenizer = load_tokenizer(folder)
    shutil.rmtree(folder)
    tokenizer.save(tmp_path / "new" / "folder")
    assert {path.name: path.read_bytes() for path in (tmp_path / "new" / "folder").iterdir()} == before
    assert load_tokenizer(tmp_path / "new" / "folder").fingerprint() == tokenizer.fingerprint()


def test_the_fingerprint_is_about_what_ids_mean(make):
    reference = load_tokenizer(make("reference")).fingerprint()
    no_pad = {key: value for key, value in CONFIG.items() if key != "pad_token"}
    same = [
        make("indented", indent=2),
        make("elsewhere", config={}, files={"special_tokens_map.json": CONFIG}),
        make("templated", config={**CONFIG, "chat_template": "x"}),
        make("no-pad", config=no_pad),
    ]
    assert [load_tokenizer(folder).fingerprint() == reference for folder in same] == [True] * len(same)
    other = [
        make("swapped", words=[*WORDS[:-2], "c", "b"]),
        make("longer", words=[*WORDS, "d"]),
        make("ends", config={**CONFIG, "eos_token": "c"}),
        make("begins", config={**CONFIG, "bos_token": "c"}),
    ]
    assert [load_tokenizer(folder).fingerprint() == reference for folder in other] == [False] * len(other)
