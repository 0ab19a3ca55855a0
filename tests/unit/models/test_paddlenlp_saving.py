"""What is written for PaddleNLP is what PaddleNLP writes itself; what it cannot compute is refused."""

from __future__ import annotations

import json
import shutil

import numpy as np
import paddle
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from alignment.architecture.decoder_config import DecoderConfig
from alignment.commands import export
from alignment.errors import ModelFolderError
from alignment.models.decoder.decoder import CausalLM
from alignment.models.decoder.initialise import draw_weights
from alignment.models.decoder.score_model import ScoreModel, ScoreOptions
from alignment.models.folders.hub import load_causal_lm
from alignment.models.folders.paddlenlp_saving import save_paddlenlp
from alignment.models.tokenizer.tokenizer import load_tokenizer

RAW = {
    "model_type": "llama",
    "vocab_size": 20,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 16,
    "eos_token_id": 2,
}
NOT_COMPARED = ("_name_or_path", "dtype", "eos_token_id", "sliding_window")


@pytest.fixture
def golden(repo_root):
    return repo_root / "tests" / "golden"


@pytest.fixture
def tokenizer(golden):
    return load_tokenizer(golden / "paddlenlp_tokenizers" / "llama")


def build(raw):
    model = CausalLM(DecoderConfig.from_dict(raw))
    draw_weights(model, seed=0, std=0.3)
    return model


@pytest.mark.parametrize("name", ["llama-safetensors", "llama-bfloat16", "qwen2-safetensors", "qwen2-tied"])
def test_weights_and_config_are_those_of_paddlenlp(tmp_path, golden, tokenizer, name):
    source = golden / "paddlenlp" / name
    model = load_causal_lm(source, dtype="bfloat16" if "bfloat16" in name else "float32")
    save_paddlenlp(tmp_path, model, tokenizer)
    written, expected = (load_file(folder / "model.safetensors") for folder in (tmp_path, source))
    assert written.keys() == expected.keys()
    for key, array in expected.items():
        assert written[key].dtype == array.dtype and np.array_equal(written[key], array), key
    with safe_open(tmp_path / "model.safetensors", "np") as file:
        assert file.metadata() == {"format": "np"}
    ours, theirs = (json.loads((folder / "config.json").read_text()) for folder in (tmp_path, source))
    for key in ours.keys() & theirs.keys() - set(NOT_COMPARED):
        assert ours[key] == theirs[key], key
    computed = {*RAW, "rope_theta", "rms_norm_eps", "rope_scaling_type", "tie_word_embeddings", "architectures"}
    assert computed <= ours.keys() & (theirs.keys() | {"num_key_value_heads"}) and "rope_scaling" not in ours


@pytest.mark.parametrize("name", ["llama-linear", "llama-dynamic", "llama-ntk", "mistral-tied", "llama-tied"])
def test_what_is_written_is_read_back(tmp_path, golden, tokenizer, name):
    with np.load(golden / "paddlenlp" / name / "outputs.npz") as file:
        ids, expected = file["ids"].astype(np.int64), file["outputs"]
    save_paddlenlp(tmp_path, load_causal_lm(golden / "paddlenlp" / name), tokenizer)
    model = load_causal_lm(tmp_path)
    model.eval()
    np.testing.assert_allclose(model(paddle.to_tensor(ids)).numpy(), expected, atol=1e-5)


def test_a_tied_mistral_gets_a_head_because_paddlenlp_does_not_tie_it(tmp_path, tokenizer):
    save_paddlenlp(tmp_path, build({**RAW, "model_type": "mistral", "tie_word_embeddings": True}), tokenizer)
    tensors = load_file(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(tensors["lm_head.weight"], tensors["mistral.embed_tokens.weight"].T)
    assert json.loads((tmp_path / "config.json").read_text())["tie_word_embeddings"] is False


@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_a_square_head_that_config_ties_is_the_right_way_round(tmp_path, tokenizer, family):
    """Only of Mistral PaddleNLP keeps a head of its own there, [in, out]; elsewhere it is the embedding."""
    model = build({**RAW, "model_type": family, "vocab_size": 8, "tie_word_embeddings": family == "llama"})
    save_paddlenlp(tmp_path, model, tokenizer)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "tie_word_embeddings": True}))
    ids = paddle.to_tensor([[3, 1, 4, 1, 5]])
    np.testing.assert_array_equal(load_causal_lm(tmp_path)(ids).numpy(), model(ids).numpy())


def test_the_padding_token_of_a_mistral_is_not_named_because_paddlenlp_would_embed_it_as_zeros(tmp_path, tokenizer):
    save_paddlenlp(tmp_path, build({**RAW, "model_type": "mistral", "pad_token_id": 0}), tokenizer)
    assert json.loads((tmp_path / "config.json").read_text())["pad_token_id"] is None
    assert json.loads((tmp_path / "generation_config.json").read_text())["pad_token_id"] == 0


def test_a_window_that_paddlenlp_ignores_is_said(tmp_path, tokenizer, caplog):
    save_paddlenlp(tmp_path, build({**RAW, "model_type": "mistral", "sliding_window": 4}), tokenizer)
    assert "PaddleNLP ignores sliding_window; rows of over 4 tokens" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "qwen3", "head_dim": 2}, r"no model for 'qwen3' \(it has: llama, mistral, qwen2\)"),
        ({"attention_bias": True}, "does not compute this one: attention_bias is true"),
        ({"mlp_bias": True}, "does not compute this one: mlp_bias is true"),
        ({"head_dim": 4}, "head_dim 4 is not hidden_size / num_attention_heads"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, r"its rotary embedding is scaled \(yarn\)"),
        (
            {"model_type": "qwen2", "rope_scaling": {"rope_type": "linear", "factor": 2.0}},
            r"qwen2 model does not compute this one: its rotary embedding is scaled \(linear\)",
        ),
    ],
)
def test_a_model_that_paddlenlp_cannot_compute_is_refused(tmp_path, tokenizer, change, message):
    with pytest.raises(ModelFolderError, match=message):
        save_paddlenlp(tmp_path / "out", build({**RAW, **change}), tokenizer)
    assert not (tmp_path / "out").exists()


def test_a_score_model_is_refused(tmp_path, tokenizer):
    model = ScoreModel(DecoderConfig.from_dict(RAW), ScoreOptions())
    with pytest.raises(ModelFolderError, match="no model with a score head; export this one with --format huggingface"):
        save_paddlenlp(tmp_path, model, tokenizer)


@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_tokenizer_files_are_those_of_paddlenlp_and_give_the_same_ids(tmp_path, golden, name):
    source = golden / "paddlenlp_tokenizers" / name
    record = json.loads((source / "ids.json").read_text(encoding="utf-8"))
    save_paddlenlp(tmp_path, build(RAW), load_tokenizer(source))
    again = load_tokenizer(tmp_path)
    assert [again.encode(text["text"]) for text in record["texts"]] == [text["ids"] for text in record["texts"]]
    assert [again.apply_chat_template(chat["messages"]) for chat in record["chats"]] == [
        chat["text"] for chat in record["chats"]
    ]
    names = {path.name for path in tmp_path.iterdir()}
    config = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    special = json.loads((tmp_path / "special_tokens_map.json").read_text(encoding="utf-8"))
    if name == "llama":
        assert "sentencepiece.bpe.model" in names and not names & {"tokenizer.model", "tokenizer.json"}
        assert config["tokenizer_class"] == "LlamaTokenizer"
    else:
        assert config["tokenizer_class"] == "PretrainedTokenizerFast" and "tokenizer.json" in names
        assert [token["content"] for token in special["additional_special_tokens"]] == ["<|im_start|>"]
    assert all(isinstance(token, dict) for key, token in special.items() if key.endswith("_token"))


def test_added_tokens_that_are_not_special_stay_so(tmp_path, golden):
    source = shutil.copytree(golden / "paddlenlp_tokenizers" / "qwen2", tmp_path / "source")
    path = source / "tokenizer_config.json"
    config = json.loads(path.read_text())
    flags = dict.fromkeys(("lstrip", "rstrip", "normalized", "single_word", "special"), False)
    config["added_tokens_decoder"]["374"] = {"content": "<tool>", **flags}
    path.write_text(json.dumps(config))
    save_paddlenlp(tmp_path / "out", build(RAW), load_tokenizer(source))
    written = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    special = json.loads((tmp_path / "out" / "special_tokens_map.json").read_text())
    assert written["added_tokens_decoder"]["374"] == {"content": "<tool>", **flags}
    assert "<tool>" not in {token["content"] for token in special["additional_special_tokens"]}
    assert load_tokenizer(tmp_path / "out").encode("<tool>") == [374]


def test_a_template_that_paddlenlp_cannot_read_is_left_out_and_said(tmp_path, golden, caplog):
    source = shutil.copytree(golden / "paddlenlp_tokenizers" / "llama", tmp_path / "source")
    (source / "chat_template.json").unlink()
    (source / "chat_template.jinja").write_text("{% generation %}x{% endgeneration %}")
    save_paddlenlp(tmp_path / "out", build(RAW), load_tokenizer(source))
    assert json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())["chat_template"] is None
    assert not (tmp_path / "out" / "chat_template.jinja").exists()
    assert "PaddleNLP cannot read the chat template" in caplog.text


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_export_writes_reads_and_compares(tmp_path, golden, dtype):
    source = shutil.copytree(golden / "paddlenlp" / "llama-parts", tmp_path / "source")
    for path in (golden / "paddlenlp_tokenizers" / "llama").iterdir():
        shutil.copy(path, source)
    facts = export.export_model(source, tmp_path / "out", dtype=dtype, layout="paddlenlp")
    assert facts["largest logit difference"] == 0.0 and facts["format"] == "paddlenlp"
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["dtype"] == dtype and config["paddlenlp_version"] == "3.0.0b4"
