"""A checkpoint takes the place of the model that the arguments name only when it has its architecture."""

import json
from types import SimpleNamespace

import pytest

from alignment.architecture.decoder_config import DecoderConfig
from alignment.errors import ArgumentError, CheckpointError
from alignment.runs.models import read_template, resumed_folder, starting_folder

CONFIG = {
    "model_type": "llama",
    "vocab_size": 21,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 16,
}


def _write(folder, **changes):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({**CONFIG, **changes}))
    return folder


@pytest.fixture
def start(tmp_path):
    """A run that resumes from a checkpoint whose policy was written as ``models.folders.saving`` writes it."""
    folder = tmp_path / "checkpoint-3"
    _write(folder / "policy", **DecoderConfig.from_dict(CONFIG).to_dict())
    checkpoint = SimpleNamespace(folder=folder, model_folder=lambda name: folder / name)
    return SimpleNamespace(checkpoint=checkpoint, parsed=SimpleNamespace(adapter=SimpleNamespace(lora=False)))


def test_the_checkpoint_of_the_same_architecture_is_used(start, tmp_path):
    initial = _write(tmp_path / "initial")
    assert resumed_folder(start, "policy", str(initial)) == str(tmp_path / "checkpoint-3" / "policy")
    for group in (
        SimpleNamespace(model_name_or_path=str(initial), model_config_name_or_path=None),
        SimpleNamespace(model_name_or_path=None, model_config_name_or_path=str(initial / "config.json")),
    ):
        assert starting_folder(start, group, "policy") == str(tmp_path / "checkpoint-3" / "policy")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_hidden_layers": 3}, "num_hidden_layers is 2 there and 3 here"),
        ({"vocab_size": 22}, "vocab_size is 21 there and 22 here"),
        ({"num_key_value_heads": 1}, "num_key_value_heads is 2 there and 1 here"),
        ({"rope_theta": 500.0}, "rope_theta is 10000.0 there and 500.0 here"),
        ({"model_type": "qwen2", "num_key_value_heads": 2}, "model_type is llama there and qwen2 here"),
    ],
)
def test_another_architecture_is_refused_by_what_differs(start, tmp_path, changes, said):
    initial = _write(tmp_path / "initial", **changes)
    with pytest.raises(CheckpointError) as caught:
        resumed_folder(start, "policy", str(initial))
    message = str(caught.value)
    assert said in message and "checkpoint-3" in message and str(initial) in message


def test_what_training_may_change_is_no_difference(start, tmp_path):
    changes = {"eos_token_id": [2, 7], "pad_token_id": 0, "torch_dtype": "bfloat16", "initializer_range": 0.1}
    initial = _write(tmp_path / "initial", **changes)
    assert resumed_folder(start, "policy", str(initial)).endswith("checkpoint-3/policy")


def test_a_model_that_is_gone_is_told_and_the_checkpoint_used(start, caplog, tmp_path):
    assert resumed_folder(start, "policy", str(tmp_path / "gone")).endswith("checkpoint-3/policy")
    assert "cannot be compared" in caplog.text


def test_a_fresh_start_is_what_the_arguments_name():
    assert resumed_folder(SimpleNamespace(checkpoint=None), "policy", "anywhere") == "anywhere"


@pytest.mark.parametrize("text", ["{{ messages }}", "{% for m in messages %}x{% endfor %}", "{% x %}{{ y }}"])
def test_a_template_is_a_text_where_it_is_jinja_and_a_file_else(text, tmp_path):
    assert read_template(text) == text
    (tmp_path / "own.jinja").write_text(text)
    assert read_template(str(tmp_path / "own.jinja")) == text
    with pytest.raises(ArgumentError, match="tokenizer_chat_template=nowhere.jinja cannot be read"):
        read_template("nowhere.jinja")
