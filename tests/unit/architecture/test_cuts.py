"""Which rectangle each process holds: whole tensors are covered, copies are counted, impossible numbers are named."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignment.architecture.cuts import (
    check_degrees,
    gradient_is_partial,
    held_names,
    layer_ranges,
    layer_sizes,
    local_part,
    parts_of_rank,
    tensor_copies,
    whole_shapes,
)
from alignment.architecture.decoder_config import DecoderConfig
from alignment.architecture.families import EMBEDDING
from alignment.architecture.layout import Layout
from alignment.models.decoder.decoder import CausalLM
from alignment.models.decoder.placement import Placement
from alignment.models.decoder.score_model import ScoreModel, ScoreOptions
from alignment.parallel.comms.group import Group

SHAPE = {
    "vocab_size": 43,
    "hidden_size": 16,
    "intermediate_size": 22,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
FAMILIES = {
    "llama": {"model_type": "llama", "attention_bias": True, "mlp_bias": True},
    "mistral": {"model_type": "mistral"},
    "qwen2": {"model_type": "qwen2", "tie_word_embeddings": True},
    "qwen3": {"model_type": "qwen3", "head_dim": 6},
}
QUERY, KEY, OUTPUT = (f"model.layers.1.self_attn.{name}_proj" for name in "qko")


def read(family="llama", **changes):
    return DecoderConfig.from_dict({**SHAPE, **FAMILIES[family], **changes})


def columns(name, size, config, degree):
    shape = (16, size)
    return [local_part(name, shape, config, tensor_degree=degree, tensor_index=i).box[1] for i in range(degree)]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["causal", "score"])
def test_shapes_are_those_of_the_model(family, kind):
    config = read(family)
    model = CausalLM(config) if kind == "causal" else ScoreModel(config, ScoreOptions(score_bias=True))
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    assert whole_shapes(config, kind, score_bias=True) == shapes


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["causal", "score"])
@pytest.mark.parametrize("layout", [Layout(tensor=4), Layout(tensor=2, pipeline=2, virtual_stages=2, sharding=2)])
def test_every_rank_holds_what_the_plan_says_and_together_all(family, kind, layout):
    config = read(family)
    seen = {name: np.zeros(shape, int) for name, shape in whole_shapes(config, kind).items()}
    for rank in range(layout.world_size):
        stage = rank // (layout.tensor * layout.sharding)
        group = Group("tensor", range(layout.tensor), rank=rank % layout.tensor)
        placement = Placement(group, stage, layout.pipeline, layout.virtual_stages)
        model = (
            CausalLM(config, placement=placement)
            if kind == "causal"
            else ScoreModel(config, ScoreOptions(), placement=placement)
        )
        parts = parts_of_rank(config, kind, layout, rank)
        assert {part.name: part for part in parts} == model.parts
        assert {p.name: p.extent for p in parts} == {n: tuple(p.shape) for n, p in model.named_parameters()}
        for part in parts:
            seen[part.name][part.slices] += 1
    for name, count in seen.items():
        is_tied = kind == "causal" and config.tie_word_embeddings and layout.pipeline > 1
        stages = 2 if is_tied and name == EMBEDDING else 1
        copies = tensor_copies(name, config, tensor_degree=layout.tensor)
        assert (count == copies * stages * layout.batch).all(), name


def test_whole_heads_are_cut():
    config = read(head_dim=6)
    assert columns(f"{QUERY}.weight", 24, config, 2) == [(0, 12), (12, 24)]
    assert columns(f"{KEY}.weight", 12, config, 2) == [(0, 6), (6, 12)]
    rows = [local_part(f"{OUTPUT}.weight", (24, 16), config, tensor_degree=4, tensor_index=i).box for i in range(4)]
    assert rows == [((6 * i, 6 * i + 6), (0, 16)) for i in range(4)]
    bias = local_part(f"{QUERY}.bias", (24,), config, tensor_degree=2, tensor_index=1)
    assert bias.box == ((12, 24),)
    assert local_part(f"{OUTPUT}.bias", (16,), config, tensor_degree=2, tensor_index=1).is_whole


def test_key_heads_that_are_fewer_than_processes_are_held_by_neighbours():
    config = read(num_attention_heads=8, head_dim=6)
    assert columns(f"{KEY}.weight", 12, config, 8) == [(0, 6)] * 4 + [(6, 12)] * 4
    assert tensor_copies(f"{KEY}.weight", config, tensor_degree=8) == 4
    assert layer_sizes(config, tensor_degree=8, tensor_index=0)[:2] == (1, 1)


def test_vocabulary_and_inner_width_are_cut_unevenly():
    config = read()
    assert columns("lm_head.weight", 43, config, 4) == [(0, 11), (11, 22), (22, 33), (33, 43)]
    embedding = local_part("model.embed_tokens.weight", (43, 16), config, tensor_degree=4, tensor_index=3)
    assert embedding.box == ((33, 43), (0, 16)), "rows of the embedding are the tokens of the head's columns"
    assert [layer_sizes(config, tensor_degree=4, tensor_index=i).inner for i in range(4)] == [6, 6, 5, 5]


@given(layers=st.integers(1, 40), num_stages=st.integers(1, 8), chunks=st.integers(1, 4))
def test_layers_of_all_chunks_are_all_layers_in_order(layers, num_stages, chunks):
    ranges = [
        layer_ranges(layers, stage=stage, num_stages=num_stages, chunks_per_stage=chunks) for stage in range(num_stages)
    ]
    order = [layer for chunk in range(chunks) for stage in range(num_stages) for layer in ranges[stage][chunk]]
    assert order == list(range(layers))
    sizes = [len(chunk) for stage in ranges for chunk in stage]
    assert max(sizes) - min(sizes) <= 1


def test_ends_of_the_pipeline():
    names = list(whole_shapes(read("qwen2"), "causal"))
    first, middle, last = (held_names(names, read("qwen2"), stage=stage, num_stages=3) for stage in range(3))
    assert "model.embed_tokens.weight" in first and "model.embed_tokens.weight" in last, "a tied embedding is the head"
    assert all(name.startswith("model.layers.") for name in middle)
    assert "model.norm.weight" in last and "model.norm.weight" not in first
    scores = list(whole_shapes(read("qwen2"), "score"))
    last = held_names(scores, read("qwen2"), stage=2, num_stages=3)
    assert "score.weight" in last and "model.embed_tokens.weight" not in last


@pytest.mark.parametrize(
    ("name", "plain", "sequence_parallel"),
    [
        ("model.layers.0.self_attn.q_norm.weight", True, True),
        ("model.layers.0.self_attn.q_proj.weight", False, False),
        ("model.layers.0.self_attn.k_proj.bias", True, True),
        ("model.layers.0.self_attn.o_proj.bias", False, True),
        ("model.layers.0.mlp.down_proj.bias", False, True),
        ("model.layers.0.mlp.up_proj.bias", False, False),
        ("model.layers.0.input_layernorm.weight", False, True),
        ("model.norm.weight", False, True),
        ("model.embed_tokens.weight", False, False),
        ("score.weight", False, False),
    ],
)
def test_which_gradients_are_shares(name, plain, sequence_parallel):
    config = dataclasses.replace(read(), qk_norm=True)
    for tokens_split, wanted in ((False, plain), (True, sequence_parallel)):
        assert gradient_is_partial(name, config, tensor_degree=4, sequence_parallel=tokens_split) == wanted
        assert not gradient_is_partial(name, config, tensor_degree=1, sequence_parallel=tokens_split)


def test_numbers_that_work_are_not_complained_about():
    assert check_degrees(read(), Layout(tensor=4, pipeline=5, data=3)) == []
    assert check_degrees(read(num_key_value_heads=4), Layout(pipeline=2, virtual_stages=2)) == []


@pytest.mark.parametrize(
    ("changes", "layout", "message"),
    [
        (
            {},
            Layout(tensor=3),
            "tensor_parallel_degree=3 does not divide the model's 4 attention heads (allowed: 1, 2, 4)",
        ),
        (
            {"num_attention_heads": 12, "num_key_value_heads": 4, "head_dim": 4},
            Layout(tensor=6),
            "tensor_parallel_degree=6 neither divides the model's 4 key and value heads nor is a multiple of them "
            "(allowed: 1, 2, 4, 12)",
        ),
        (
            {"vocab_size": 3},
            Layout(tensor=4),
            "tensor_parallel_degree=4 is more than the model's vocab_size 3 (allowed: 1, 2)",
        ),
        (
            {},
            Layout(pipeline=6),
            "pipeline_parallel_degree=6 is more than the model's 5 layers (allowed: 1 to 5)",
        ),
        (
            {},
            Layout(pipeline=2, virtual_stages=3),
            "virtual_pp_degree=3 with pipeline_parallel_degree=2 needs 6 layers, but the model has 5 "
            "(allowed: virtual_pp_degree 1 to 2)",
        ),
    ],
)
def test_numbers_that_cannot_be_are_refused_with_those_that_can(changes, layout, message):
    assert check_degrees(read(**changes), layout) == [message]


def test_every_allowed_degree_gives_a_model():
    config = read(num_attention_heads=12, num_key_value_heads=4, head_dim=4)
    for degree in range(1, 13):
        if check_degrees(config, Layout(tensor=degree)):
            with pytest.raises(AssertionError, match="check_degrees refuses it"):
                layer_sizes(config, tensor_degree=degree, tensor_index=0)
        else:
            heads, kv_heads, _ = layer_sizes(config, tensor_degree=degree, tensor_index=0)
            assert heads * degree == 12 and heads % kv_heads == 0
