"""config.json: what each family assumes, what is refused, and that nothing is lost on the way back."""

from __future__ import annotations

import json

import numpy as np
import pytest

from alignment.architecture.decoder_config import DecoderConfig
from alignment.architecture.families import FAMILIES
from alignment.errors import ModelFolderError
from alignment.models.config import read_config

SIZES = {
    "vocab_size": 20,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
}
FULL, LOCAL = "full_attention", "sliding_attention"
WINDOW = {"use_sliding_window": True, "sliding_window": 4}
LONG = {"use_sliding_window": True, "sliding_window": 64, "max_position_embeddings": 64}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}


def read(family="llama", **changes):
    return DecoderConfig.from_dict({"model_type": family, **SIZES, **changes})


@pytest.mark.parametrize("family", list(FAMILIES))
def test_there_and_back(family):
    turns = {"rotary_pct": 0.5, "rope_scaling": {"type": "linear", "factor": 2.0}}
    config = read(family, eos_token_id=[2, 3], unheard_of=1, **turns)
    again = DecoderConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert again.eos_token_ids == (2, 3)
    has_rope = family not in ("gpt2", "opt")
    assert again.rope_scaling == ({"rope_type": "linear", "factor": 2.0} if has_rope else None)
    assert again.to_dict()["unheard_of"] == 1


def test_biases_and_norms_by_family():
    def parts(config):
        return config.attention_bias, config.attention_output_bias, config.mlp_bias, config.qk_norm

    assert parts(read("llama")) == (False, False, False, False)
    assert parts(read("llama", attention_bias=True, mlp_bias=True)) == (True, True, True, False)
    assert parts(read("mistral", attention_bias=True)) == (False, False, False, False)
    assert parts(read("qwen2")) == (True, False, False, False)
    assert parts(read("qwen3")) == (False, False, False, True)


def test_heads_where_the_file_does_not_say():
    assert (read("llama", num_key_value_heads=None).num_key_value_heads, read("llama").head_dim) == (2, 4)
    assert read("qwen3").head_dim == 128, "the family's own default"
    assert read("llama", head_dim=6).head_dim == 6


@pytest.mark.parametrize(
    "keys", [{"rope_theta": 5e5}, {"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}]
)
def test_both_spellings_of_the_rotary_base(keys):
    assert (read(**keys).rope_theta, read(**keys).rope_scaling) == (5e5, None)


@pytest.mark.parametrize(
    ("family", "changes", "window"),
    [
        ("llama", {"sliding_window": 4}, None),
        ("mistral", {"sliding_window": 4}, 4),
        ("mistral", {"sliding_window": None}, None),
        ("qwen2", {"sliding_window": 4}, None),
        ("qwen2", {**WINDOW, "max_window_layers": 0}, 4),
        ("qwen2", {**WINDOW, "max_window_layers": 3}, None),
        ("qwen2", {**WINDOW, "max_window_layers": 1, "sliding_window": 64}, None),
        ("qwen2", {**WINDOW, "max_window_layers": 1}, 4),
        ("qwen2", {**LONG, "max_window_layers": 0, "rope_scaling": YARN}, 64),
        ("qwen2", {**LONG, "max_window_layers": 0}, None),
        ("qwen3", {**WINDOW, "layer_types": ["sliding_attention"] * 3}, 4),
        ("mistral", {"sliding_window": 4, "layer_types": ["full_attention"] * 3}, None),
    ],
)
def test_windows(family, changes, window):
    assert read(family, **changes).sliding_window == window


@pytest.mark.parametrize(
    ("family", "changes", "windows"),
    [
        ("qwen2", {**WINDOW, "max_window_layers": 1}, [None, 4, 4]),
        ("qwen3", {**WINDOW, "layer_types": [LOCAL, FULL, LOCAL]}, [4, None, 4]),
        ("gemma2", {"sliding_window": 4}, [4, None, 4]),
        ("gemma3_text", {"sliding_window": 4}, [4, 4, 4]),
        ("gemma3_text", {"sliding_window": 4, "sliding_window_pattern": 2}, [4, None, 4]),
        ("gemma3_text", {"sliding_window": 4, "layer_types": [FULL, LOCAL, FULL]}, [None, 4, None]),
        ("gemma2", {"sliding_window": 4, "layer_types": [FULL] * 3}, [None, None, None]),
    ],
)
def test_windows_in_some_layers(family, changes, windows):
    config = read(family, **changes)
    again = DecoderConfig.from_dict(config.to_dict())
    assert [config.window_of(n) for n in range(3)] == [again.window_of(n) for n in range(3)] == windows


def test_the_rotary_embedding_of_layers_with_a_window_is_another():
    old = {"rope_theta": 1e5, "rope_local_base_freq": 100.0, "rope_scaling": {"factor": 2.0, "rope_type": "linear"}}
    new = {FULL: {"rope_theta": 1e5, "rope_type": "linear", "factor": 2.0}, LOCAL: {"rope_theta": 100.0}}
    for config in (read("gemma3_text", head_dim=4, **old), read("gemma3_text", head_dim=4, rope_parameters=new)):
        np.testing.assert_allclose(config.rotary_frequencies()[0], [0.5, 0.5 * 1e5**-0.5], rtol=1e-6)
        np.testing.assert_allclose(config.rotary_frequencies(is_local=True)[0], [1.0, 0.1], rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "bloom"}, r"'bloom' is not supported \(families: falcon, gemma, "),
        ({"vocab_size": 0, "hidden_size": "8"}, "vocab_size must be a positive integer, found 0; hidden_size must be"),
        ({"num_key_value_heads": 3}, "num_attention_heads 2 is not a multiple of num_key_value_heads 3"),
        ({"num_attention_heads": 3}, "hidden_size 8 is not a multiple of num_attention_heads 3"),
        ({"head_dim": 7}, "head_dim 7 is odd"),
        ({"rms_norm_eps": "small"}, "rms_norm_eps must be a number from 0, found 'small'"),
        ({"eos_token_id": "</s>"}, "eos_token_id must be an integer, a list of integers or null"),
        ({"rope_scaling": "linear"}, "rope_scaling must be an object or null"),
        ({"rope_scaling": {"type": "su"}}, r"'su' is not supported \(kinds: default, linear"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu' is not supported"),
        ({"quantization_config": {"bits": 4}}, "quantized weights are not supported"),
        (
            {"model_type": "mistral", "sliding_window": 4, "layer_types": [FULL, LOCAL, LOCAL]},
            "full_attention in layer_types and sliding_window 4 are not supported together for mistral",
        ),
        ({"model_type": "qwen3", **WINDOW, "layer_types": [FULL, LOCAL]}, "layer_types .* each of 3 layers"),
        ({"model_type": "qwen3", **WINDOW, "layer_types": [FULL] * 2 + ["chunked_attention"]}, "layer_types .*chunked"),
        ({"model_type": "gemma2", "sliding_window": None}, "sliding_window null is not supported"),
        ({"model_type": "gemma2", "attn_logit_softcapping": -1}, "attn_logit_softcapping must be a number above 0"),
        (
            {"model_type": "gemma3_text", "rope_parameters": {LOCAL: {"rope_type": "linear", "factor": 2.0}}},
            "sliding_attention .*linear.* is not supported",
        ),
        ({"model_type": "phi", "qk_layernorm": True}, "qk_layernorm=True is not supported"),
    ],
)
def test_what_is_refused(changes, message):
    with pytest.raises(ModelFolderError, match=f"^config.json: .*{message}"):
        DecoderConfig.from_dict({"model_type": "llama", **SIZES, **changes})


@pytest.mark.parametrize(("content", "message"), [(None, "no such file"), ("{", "as JSON"), ("[]", "found list")])
def test_a_file_that_is_no_configuration_is_named(tmp_path, content, message):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(ModelFolderError, match=message) as error:
        read_config(tmp_path)
    assert str(tmp_path / "config.json") in str(error.value)


def test_answers_of_longrope_stay_on_their_side_of_the_old_context():
    long = {"rope_type": "longrope", "short_factor": [1.0] * 2, "long_factor": [2.0] * 2}
    config = read("phi3", rope_scaling=long, original_max_position_embeddings=12, max_position_embeddings=64)
    assert [config.longest_answered(length) for length in (1, 12, 13)] == [12, 12, 64]
    assert config.unanswerable(4, 64) == range(9, 13)
    assert config.unanswerable(20, 64) == range(1, 13)
    assert not config.unanswerable(4, 12)
    plain = read(max_position_embeddings=64)
    assert plain.longest_answered(1) == 64 and not plain.unanswerable(64, 64)
