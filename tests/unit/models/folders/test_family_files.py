"""How the files of a family arrange queries, keys and values, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from alignment.architecture.decoder_config import DecoderConfig
from alignment.errors import ModelFolderError
from alignment.models.folders.family_files import FamilyFiles
from tests.tiny_models import in_own_names

SIZES = {
    "vocab_size": 11,
    "hidden_size": 16,
    "intermediate_size": 12,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
}
ATTENTION = "model.layers.0.self_attn."


def files_of(model_type, **changes):
    return FamilyFiles(DecoderConfig.from_dict(in_own_names({**SIZES, "model_type": model_type, **changes})))


def test_plain_files_have_the_names_of_parameters():
    files = files_of("llama")
    assert files.is_plain
    assert files.slot(f"{ATTENTION}q_proj.weight") == (f"{ATTENTION}q_proj.weight", None, False)


def test_internlm2_puts_the_queries_of_a_key_head_before_its_key_and_value():
    files = files_of("internlm2")  # heads of 4 numbers, two queries for each key
    places = {name: files.slot(f"{ATTENTION}{name}_proj.weight").outputs.tolist() for name in "qkv"}
    assert places["q"] == [*range(0, 8), *range(16, 24)]
    assert places["k"] == [*range(8, 12), *range(24, 28)]
    assert places["v"] == [*range(12, 16), *range(28, 32)]
    assert files.slot(f"{ATTENTION}q_proj.weight").name == "model.layers.0.attention.wqkv.weight"
    assert files.slot("lm_head.weight").name == "output.weight"


def test_glm4_rotates_neighbours_of_the_first_half_of_a_head():
    files = files_of("glm4", head_dim=8)  # (0, 1) and (2, 3) are rotated, 4 to 7 are not
    outputs = files.slot(f"{ATTENTION}k_proj.weight").outputs
    assert outputs.tolist() == [0, 2, 4, 5, 1, 3, 6, 7, 8, 10, 12, 13, 9, 11, 14, 15]


def test_what_is_put_together_is_taken_apart():
    files = files_of("internlm2")
    random = np.random.default_rng(0)
    arrays = {
        f"{ATTENTION}{name}_proj.weight": random.standard_normal((size, 16))
        for name, size in (("q", 16), ("k", 8), ("v", 8))
    }
    whole = files.assemble(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(whole[files.slot(name).outputs], array)


@pytest.mark.parametrize(
    "model_type, changes, message",
    [
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx=True is not supported"),
        ("opt", {"layer_norm_elementwise_affine": False}, "layer_norm_elementwise_affine=False is not supported"),
        ("falcon", {"alibi": True}, "alibi=True is not supported"),
        ("gemma", {"hidden_activation": "relu"}, "hidden_activation='relu' is not supported"),
        ("glm4", {"head_dim": 6}, "partial_rotary_factor 0.5 rotates 3 of a head's 6 numbers"),
    ],
)
def test_what_is_not_computed_is_refused_by_name(model_type, changes, message):
    with pytest.raises(ModelFolderError, match=message):
        files_of(model_type, **changes)
