"""Keys of config.json that people mistype, and keys that mean something else than they say; transformers 5 decides."""

from __future__ import annotations

import pytest

from alignment.architecture.config_keys import COMMON_DEFAULTS
from alignment.architecture.decoder_config import DecoderConfig
from alignment.architecture.families import FAMILIES
from alignment.errors import ModelFolderError

SIZES = {
    "vocab_size": 20,
    "hidden_size": 32,
    "intermediate_size": 12,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
}
EXPERTS = {
    "num_experts": 5,
    "num_local_experts": 5,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 20,
    "shared_expert_intermediate_size": 28,
}
WINDOW = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}
READ = ("layer_types", "sliding_window_pattern", "rope_scaling", "rope_parameters", "partial_rotary_factor", "head_dim")
BAD = (None, True, -1, 1.5, 1e300, "6", [1], {"a": 1}, {"rope_type": ["x"]}, {"sliding_attention": 1})
FULL, LOCAL = "full_attention", "sliding_attention"
LINEAR = {"rope_type": "linear", "factor": 2.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}


def written(family, **changes):
    """Return a config.json of a family in its own names."""
    table = FAMILIES[family]
    sizes = {table.key(name): size for name, size in SIZES.items()}
    return {"model_type": family, **sizes, **(EXPERTS if table.experts else {}), **changes}


def read(family, **changes):
    return DecoderConfig.from_dict(written(family, **changes), place="F/config.json")


@pytest.mark.parametrize("family", list(FAMILIES))
def test_no_value_of_a_key_is_a_traceback(family):
    table = FAMILIES[family]
    windows = {} if table.window == "never" else WINDOW
    keys = {*written(family), *table.defaults, *COMMON_DEFAULTS, *table.fixed, *table.keys.values(), *windows, *READ}
    refused = 0
    for key in sorted(keys - {"model_type"}):
        for value in BAD:
            try:
                config = read(family, **{**windows, key: value})
                config.to_dict()
                assert config.features and config.longest_sequence and config.angle_limit != 0
            except ModelFolderError as error:
                assert str(error).startswith("F/config.json: ")
                refused += 1
        bare = {name: value for name, value in written(family, **windows).items() if name != key}
        try:
            DecoderConfig.from_dict(bare)
        except ModelFolderError:
            refused += 1
    assert refused > 100


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("llama", {"is_causal": False}, r"is_causal=False is not supported \(allowed: True\)"),
        ("llama", {"per_layer_config": {"1": {"intermediate_size": 4}}}, "per_layer_config="),
        ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5 is not supported for llama"),
        ("llama", {"rope_parameters": {**LINEAR, "partial_rotary_factor": 0.5}}, "partial_rotary_factor=0.5 is not"),
        ("llama", {"rope_scaling": {**LINEAR, "factor": "2"}}, "factor of the rotary embedding must be a number, fo"),
        ("llama", {"rope_scaling": {**LINEAR, "factor": True}}, "factor of the rotary embedding must be a number, fo"),
        ("llama", {"rope_scaling": {**YARN, "original_max_position_embeddings": 0}}, "_embeddings .* above 0, found 0"),
        ("llama", {"rope_scaling": {"rope_type": ["x"]}}, r"rope_type \['x'\] is not supported"),
        ("llama", {"rope_parameters": {"rope_theta": 0}}, "rope_theta must be a number above 0, found 0"),
        ("llama", {"tie_word_embeddings": "false"}, "tie_word_embeddings must be true or false, found 'false'"),
        ("llama", {"attention_bias": 1}, "attention_bias must be true or false, found 1"),
        ("llama", {"rms_norm_eps": -1e-6}, "rms_norm_eps must be a number from 0, found -1e-06"),
        ("llama", {"hidden_act": ["silu"]}, r"hidden_act \['silu'\] is not supported"),
        ("llama", {"pairwise_comparison": "x"}, "pairwise_comparison must be an object or null"),
        ("qwen2", {"use_sliding_window": "no"}, "use_sliding_window must be true or false, found 'no'"),
        ("qwen2", {**WINDOW, "max_window_layers": "1"}, "max_window_layers must be an integer, found '1'"),
        ("qwen3_moe", {"norm_topk_prob": "false"}, "norm_topk_prob must be true or false"),
        ("mixtral", {"router_aux_loss_coef": float("nan")}, "router_aux_loss_coef must be a number from 0, found nan"),
        ("mixtral", {"router_jitter_noise": 0.1}, "router_jitter_noise 0.1 is not supported"),
        ("mistral", {"sliding_window": 0}, "sliding_window must be a positive integer or null, found 0"),
        ("mixtral", {"sliding_window": 4, "layer_types": [FULL] * 3}, "full_attention in layer_types and sliding_wind"),
        ("falcon", {"multi_query": "false"}, "multi_query must be true or false"),
        ("falcon", {"hidden_size": None}, "hidden_size must be a positive integer, found None"),
        ("opt", {"do_layer_norm_before": "false"}, "do_layer_norm_before must be true or false"),
        ("opt", {"word_embed_proj_dim": 0}, "word_embed_proj_dim must be a positive integer or null, found 0"),
        ("opt", {"word_embed_proj_dim": True}, "word_embed_proj_dim must be a positive integer or null, found True"),
        ("gpt_neox", {"head_dim": 8}, r"head_dim 8 is not hidden_size / num_attention_heads \(32 / 2\)"),
        ("gpt2", {"n_head": 2, "num_attention_heads": 4}, "n_head 2 and num_attention_heads 4 contradict each other"),
        ("qwen2_moe", {"layer_types": [LOCAL, FULL, FULL]}, "layer_types .* is not supported .only full_attention"),
        ("qwen2", {"layer_types": [LOCAL, FULL, FULL]}, "sliding_attention, but use_sliding_window is not true"),
        ("gemma2", {"layer_types": 3}, "layer_types must be a list of full_attention and sliding_attention, found 3"),
        ("gemma2", {"layer_types": []}, "layer_types must have one kind for each of 3 layers"),
        ("gemma3_text", {"sliding_window_pattern": 0}, "sliding_window_pattern must be a positive integer, found 0"),
        (
            "gemma3_text",
            {"sliding_window_pattern": "6"},
            "sliding_window_pattern must be a positive integer, found '6'",
        ),
        ("gemma3_text", {"attn_logit_softcapping": 1.5}, "attn_logit_softcapping=1.5 is not supported"),
        ("gemma3_text", {"rope_parameters": {LOCAL: "x"}}, "sliding_attention in rope_parameters must be an object"),
        ("gemma3_text", {"rope_parameters": {FULL: LINEAR}, "rope_scaling": LINEAR}, "are both given"),
        (
            "gemma3_text",
            {"rope_parameters": LINEAR},
            "rope_parameters .* must hold full_attention and sliding_attention",
        ),
    ],
)
def test_what_changes_a_model_is_refused_by_name(family, changes, message):
    with pytest.raises(ModelFolderError, match=f"^F/config.json: .*{message}"):
        read(family, **changes)


@pytest.mark.parametrize(
    ("family", "foreign"),
    [
        ("gpt_neox", {"partial_rotary_factor": 1.0, "rope_theta": 5e5, "rms_norm_eps": 0.5}),
        ("falcon", {"num_key_value_heads": 2, "intermediate_size": 7, "rms_norm_eps": 0.5}),
        ("opt", {"intermediate_size": 7, "hidden_act": "gelu"}),
        ("gemma2", {"hidden_act": "gelu"}),
        ("llama", {"embedding_size": 4, "bias": True, "layer_types": "x", "sliding_window": 0}),
        ("qwen2", {"sliding_window": 0, "max_window_layers": 0}),
    ],
)
def test_names_of_other_families_mean_nothing(family, foreign):
    assert read(family, **foreign) == read(family)


def test_two_spellings_of_one_key():
    assert read("gpt2", num_attention_heads=2) == read("gpt2")
    bare = {key: value for key, value in written("gpt2").items() if key not in ("n_head", "n_layer")}
    other = DecoderConfig.from_dict({**bare, "num_attention_heads": 4, "num_hidden_layers": 2})
    assert (other.num_attention_heads, other.num_hidden_layers) == (4, 2)
    assert read("llama", model_type="internlm", bias=True).attention_bias


def test_an_old_context_of_null_is_none():
    nested = read("llama", rope_scaling=YARN, original_max_position_embeddings=None)
    assert nested == read("llama", rope_scaling=YARN)
    assert nested.rope_scaling["original_max_position_embeddings"] == 16


@pytest.mark.parametrize("key", ["rope_scaling", "rope_parameters"])
@pytest.mark.parametrize("kind", [{"type": "su"}, {"type": "yarn"}, {"rope_type": "su"}, {"rope_type": "longrope"}])
def test_names_of_longrope(key, kind):
    factors = {"short_factor": [1.0] * 8, "long_factor": [2.0] * 8}
    config = read("phi3", original_max_position_embeddings=32, **{key: {**kind, **factors}})
    assert config.angle_limit == 32


def test_the_exact_gelu_of_gemma_2():
    assert [read(name, hidden_activation="gelu").activation for name in ("gemma2", "gemma3_text")] == ["gelu", "gelu"]
    assert read("gemma", hidden_act="gelu").activation == "gelu_tanh", "which its first folders mean"
