"""One rule for where a sequence ends, what is written of it, and what a score model is padded with."""

from __future__ import annotations

import json

import pytest

from alignment.architecture.decoder_config import DecoderConfig
from alignment.data.sources.packing import TOKENIZER
from alignment.errors import ModelFolderError
from alignment.models.config import read_config
from alignment.models.decoder.decoder import CausalLM
from alignment.models.decoder.score_model import ScoreModel, ScoreOptions
from alignment.models.folders import hub
from alignment.models.folders.saving import save_model
from alignment.models.folders.sequence_ends import padding_id, sequence_ends
from alignment.models.tokenizer.tokenizer import load_tokenizer
from tests.tiny_models import TINY

RAW = {**TINY, "vocab_size": 24}
GENERATION = {
    "eos_token_id": [7, 2],
    "pad_token_id": 3,
    "temperature": 0.6,
    "top_p": 0.9,
    "repetition_penalty": 1.05,
    "do_sample": True,
}


@pytest.fixture(scope="module")
def tokenizer():
    """Its EOS is 2, its padding 0, <unk> 3, <bos> 1."""
    return load_tokenizer(TOKENIZER)


@pytest.fixture
def folder(tmp_path):
    """A model whose config.json names 7, and whose generation_config.json 7 and 2."""
    save_model(tmp_path, CausalLM(DecoderConfig.from_dict({**RAW, "eos_token_id": 7})), None)
    (tmp_path / "generation_config.json").write_text(json.dumps(GENERATION))
    return tmp_path


def read(path):
    return json.loads(path.read_text())


def test_the_ends_are_those_of_all_files(folder, tokenizer):
    config = read_config(folder)
    assert tokenizer.eos_token_id == 2
    assert sequence_ends(config, None) == (7, 2)
    assert sequence_ends(config, tokenizer) == (2, 7)
    assert sequence_ends(config, tokenizer, 5) == (5, 2, 7)
    assert sequence_ends(config, tokenizer, 24) == (2, 7), "no id beyond the vocabulary"
    assert sequence_ends(DecoderConfig.from_dict({**RAW, "eos_token_id": None}), None) == ()


def test_both_files_are_written_with_all_ends_and_the_rest_is_kept(folder, tokenizer, tmp_path):
    source = folder
    for target in (tmp_path / "first", tmp_path / "second"):
        save_model(target, hub.load_causal_lm(source, tokenizer=tokenizer), tokenizer)
        assert read(target / "config.json")["eos_token_id"] == [2, 7]
        generation = read(target / "generation_config.json")
        assert generation.pop("eos_token_id") == [2, 7]
        kept = {name: value for name, value in GENERATION.items() if name != "eos_token_id"}
        assert generation.items() >= kept.items()
        source = target


def test_one_end_is_written_as_a_number(tmp_path, tokenizer):
    save_model(tmp_path, CausalLM(DecoderConfig.from_dict({**RAW, "eos_token_id": 2})), tokenizer)
    assert read(tmp_path / "config.json")["eos_token_id"] == 2
    assert read(tmp_path / "generation_config.json")["eos_token_id"] == 2


def test_ends_that_are_no_ids_are_refused(folder):
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": "</s>"}))
    with pytest.raises(ModelFolderError, match=r"generation_config\.json: eos_token_id must be .*'</s>'"):
        read_config(folder)


def padded_with(tmp_path, name):
    """Return the packing tokenizer with another padding token."""
    load_tokenizer(TOKENIZER).save(tmp_path)
    for file in ("tokenizer_config.json", "special_tokens_map.json"):
        (tmp_path / file).write_text(json.dumps({**read(tmp_path / file), "pad_token": name}))
    return load_tokenizer(tmp_path)


@pytest.mark.parametrize(("given", "pad", "word"), [("<eos>", 3, "<unk>"), ("<pad>", 0, "<pad>")])
def test_a_score_model_and_its_tokenizer_pad_with_the_same_token_that_ends_nothing(tmp_path, given, pad, word):
    tokenizer = padded_with(tmp_path / "tokenizer", given)
    model = ScoreModel(DecoderConfig.from_dict({**RAW, "pad_token_id": 2}), ScoreOptions())
    save_model(tmp_path / "out", model, tokenizer)
    assert read(tmp_path / "out" / "config.json")["pad_token_id"] == pad
    for file in ("tokenizer_config.json", "special_tokens_map.json"):
        assert read(tmp_path / "out" / file)["pad_token"] == word
    again = load_tokenizer(tmp_path / "out")
    assert again.pad_token_id == pad
    assert again.fingerprint() == tokenizer.fingerprint()


def test_a_language_model_keeps_its_tokenizer_byte_for_byte(tmp_path):
    tokenizer = padded_with(tmp_path / "tokenizer", "<eos>")
    save_model(tmp_path / "out", CausalLM(DecoderConfig.from_dict(RAW)), tokenizer)
    for path in (tmp_path / "tokenizer").iterdir():
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()


def test_no_padding_where_every_special_token_is_an_end(tokenizer):
    ends = list(range(8))
    assert padding_id(DecoderConfig.from_dict({**RAW, "eos_token_id": ends}), tokenizer) is None
