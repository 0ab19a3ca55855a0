"""Sentencepiece folders: Llama's rules for the beginning of a text, special tokens and added tokens."""

from __future__ import annotations

import json

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from alignment.errors import ModelFolderError
from alignment.models.tokenizer.sentencepiece_model import SentencePieceModel
from alignment.models.tokenizer.tokenizer import load_tokenizer

TEXTS = ("hello world", " two  spaces ", "line\nbreak\ttab", "\u00fcber \u6f22 \U0001f600", "a", "")


@pytest.fixture(scope="module")
def model_bytes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sentencepiece")
    sentence = "hello world the cat sat on the mat and two dogs ran over a line to break spaces"
    words = sentence.split()
    (folder / "text").write_text("\n".join(" ".join(words[i:] + words[:i]) for i in range(len(words))))
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text"),
        model_prefix=str(folder / "m"),
        vocab_size=340,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        character_coverage=1.0,
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
    )
    return (folder / "m.model").read_bytes()


@pytest.fixture(scope="module")
def peer(model_bytes):
    """Sentencepiece itself."""
    return sentencepiece.SentencePieceProcessor(model_proto=model_bytes)


@pytest.fixture(scope="module")
def make(model_bytes, tmp_path_factory):
    def build(**config):
        folder = tmp_path_factory.mktemp("model")
        (folder / "tokenizer.model").write_bytes(model_bytes)
        if config:
            (folder / "tokenizer_config.json").write_text(json.dumps(config))
        return load_tokenizer(folder)

    return build


@pytest.fixture(scope="module")
def plain(make):
    return make()


@pytest.mark.parametrize("text", TEXTS)
def test_plain_text_is_sentencepiece_behind_bos(plain, peer, text):
    assert plain.encode(text) == [1, *peer.encode(text)]
    assert plain.encode(text, add_special_tokens=False) == peer.encode(text)


@given(text=st.text())
def test_encoding_loses_nothing(plain, text):
    # Written out, special tokens become ids and would be left out by decoding.
    assert plain.decode(plain.encode(text), skip_special_tokens=True) == text.replace("\u2581", " ")


def test_the_model_names_its_special_tokens(plain, peer):
    assert (plain.bos_token, plain.eos_token, plain.unk_token, plain.pad_token) == ("<s>", "</s>", "<unk>", None)
    assert (plain.bos_token_id, plain.eos_token_id, plain.unk_token_id, plain.pad_token_id) == (1, 2, 0, None)
    assert len(plain) == len(plain.vocab) == peer.get_piece_size()
    assert plain.id_to_token(5) == peer.id_to_piece(5)


def test_bos_and_eos_around_a_text(make, peer, monkeypatch):
    assert make(add_bos_token=False, add_eos_token=True).encode("hello") == [*peer.encode("hello"), 2]
    monkeypatch.setattr(SentencePieceModel, "_read_special_pieces", lambda _: {})
    assert make().encode("hello") == peer.encode("hello"), "no BOS, so none is added"
    with pytest.raises(ModelFolderError, match="add_bos_token is true, but there is no bos_token"):
        make(add_bos_token=True)


def test_special_tokens_inside_a_text(make, peer):
    legacy, newer = make(legacy=True), make(legacy=False)
    world, prefixed = peer.encode("hello world")[-1:], peer.encode("world")
    assert peer.id_to_piece(prefixed[0]).startswith("\u2581")
    assert legacy.encode("hello</s>world") == [1, *peer.encode("hello"), 2, *prefixed]
    bare = newer.encode("hello</s>world")
    before = [1, *peer.encode("hello"), 2]
    assert bare[: len(before)] == before
    rest = bare[len(before) :]
    assert not peer.id_to_piece(rest[0]).startswith("\u2581")
    assert newer.decode(rest) == "world"
    assert newer.encode("hello</s> world")[-1:] == world
    assert newer.decode(newer.encode("hello</s> world"), skip_special_tokens=False) == "<s> hello</s> world"


def test_added_tokens(make, peer):
    size = peer.get_piece_size()
    listed = {
        str(size): {"content": "<|user|>", "special": True},
        str(size + 1): {"content": "<|us", "special": False, "lstrip": True, "rstrip": True},
    }
    tokenizer = make(added_tokens_decoder=listed, pad_token="<|pad|>", legacy=False)
    assert tokenizer.encode("<|user|><|us", add_special_tokens=False) == [size, size + 1], "the longest one wins"
    assert tokenizer.encode("<|user|>  <|us \n<|pad|>", add_special_tokens=False) == [size, size + 1, size + 2]
    assert (len(tokenizer), tokenizer.pad_token_id) == (size + 3, size + 2)
    assert tokenizer.decode([size, size + 1, size + 2, size + 9]) == "<|us"
    assert tokenizer.id_to_token(size) == "<|user|>"


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        ({"7": {"content": "<new>"}}, "token '<new>' has id 7; in tokenizer.model that is '<0x04>'"),
        ({"0": {"content": "</s>"}}, "token '</s>' has id 0; in tokenizer.model it is number 2"),
    ],
)
def test_ids_that_do_not_fit_are_refused(make, listed, message):
    with pytest.raises(ModelFolderError, match=message):
        make(added_tokens_decoder=listed)


def test_a_file_that_is_no_sentencepiece_model_is_named(tmp_path):
    (tmp_path / "tokenizer.model").write_text("IQ== 0\nIg== 1\n")
    with pytest.raises(ModelFolderError, match="tokenizer.model: cannot be read as a sentencepiece model"):
        load_tokenizer(tmp_path)
