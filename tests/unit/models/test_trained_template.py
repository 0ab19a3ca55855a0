"""The training template stands in the model's folder, and another one is told."""

from __future__ import annotations

import hashlib
import json
import re

import pytest

from alignment.architecture.decoder_config import DecoderConfig
from alignment.data.sources.packing import TOKENIZER
from alignment.models.config import read_config
from alignment.models.decoder.decoder import CausalLM
from alignment.models.folders.saving import save_model
from alignment.models.tokenizer.tokenizer import load_tokenizer
from alignment.models.tokenizer.trained_template import describe_template, template_warning
from tests.tiny_models import TINY

RAW = {**TINY, "vocab_size": 24}


@pytest.fixture(scope="module")
def tokenizer():
    """It has a chat template."""
    return load_tokenizer(TOKENIZER)


def test_the_record_names_the_template_and_its_text(tokenizer):
    assert describe_template("none", tokenizer) == {"chat_template": "none"}
    digest = hashlib.sha256(tokenizer.chat_template.encode()).hexdigest()
    assert describe_template("tokenizer", tokenizer) == {"chat_template": "tokenizer", "sha256": digest}


def test_the_record_survives_the_folder(tmp_path, tokenizer):
    record = describe_template("tokenizer", tokenizer)
    save_model(tmp_path, CausalLM(DecoderConfig.from_dict({**RAW, "trained_template": record})), tokenizer)
    assert json.loads((tmp_path / "config.json").read_text())["trained_template"] == record
    assert read_config(tmp_path).trained_template == record


@pytest.mark.parametrize(
    ("recorded", "used", "message"),
    [
        ("none", "none", None),
        ("tokenizer", "tokenizer", None),
        ("none", "tokenizer", "was trained with the classic template.*give chat_template=none"),
        ("tokenizer", "none", "was trained with chat_template=tokenizer.*give chat_template=tokenizer"),
        (None, "tokenizer", None),
        (None, "none", "the tokenizer has a chat template of its own"),
    ],
)
def test_another_template_is_told_in_one_line(recorded, used, message, tokenizer):
    record = None if recorded is None else describe_template(recorded, tokenizer)
    config = DecoderConfig.from_dict({**RAW, "trained_template": record})
    line = template_warning("FOLDER", config, tokenizer, describe_template(used, tokenizer))
    if message is None:
        assert line is None
    else:
        assert re.search(message, line) and "\n" not in line and line.startswith("FOLDER: ")


def test_a_template_that_was_changed_since_is_told(tokenizer):
    record = {"chat_template": "tokenizer", "sha256": "0" * 64}
    config = DecoderConfig.from_dict({**RAW, "trained_template": record})
    line = template_warning("FOLDER", config, tokenizer, describe_template("tokenizer", tokenizer))
    assert "the tokenizer's template has changed since then" in line


def test_an_own_template_is_recorded_with_its_text(tokenizer):
    record = describe_template("User: {}\n", tokenizer)
    assert record == {"chat_template": "none", "input_template": "User: {}\n"}
    config = DecoderConfig.from_dict({**RAW, "trained_template": record})
    assert template_warning("FOLDER", config, tokenizer, record) is None
    line = template_warning("FOLDER", config, tokenizer, describe_template("tokenizer", tokenizer))
    assert "was trained with input_template='User: {}\\n'" in line and "give input_template='User: {}\\n'" in line
    plain = DecoderConfig.from_dict(RAW)
    assert template_warning("FOLDER", plain, tokenizer, record) is None, "it was asked for by name"
    old = DecoderConfig.from_dict({**RAW, "trained_template": {"chat_template": "none"}})
    assert "give chat_template=none" in template_warning("FOLDER", old, tokenizer, record)


@pytest.mark.parametrize("has_file", [True, False])
def test_a_chat_template_given_by_key_is_saved_with_the_tokenizer(has_file, tmp_path, tokenizer):
    tokenizer.save(tmp_path / "old")
    if has_file:
        (tmp_path / "old" / "chat_template.jinja").write_text("old")
    changed = load_tokenizer(tmp_path / "old").with_chat_template("{{ messages[0]['content'] }}!")
    assert changed.apply_chat_template([{"role": "user", "content": "hi"}]) == "hi!"
    changed.save(tmp_path / "new")
    again = load_tokenizer(tmp_path / "new")
    assert again.chat_template == changed.chat_template and again.content_key() == changed.content_key()
    assert (tmp_path / "new" / "chat_template.jinja").exists() == has_file
    assert changed.fingerprint() == tokenizer.fingerprint() and changed.content_key() != tokenizer.content_key()
