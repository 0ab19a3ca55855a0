"""A base in 4 bits: it computes what its unpacked weights do, trains adapters alone, and is merged for rollouts."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain

import numpy as np
import paddle
import pytest

from alignment.architecture.adapter import Adapter, choose_modules, is_factor
from alignment.errors import AdapterError
from alignment.models.adapters.attach import attach_adapter
from alignment.models.adapters.folder import save_adapter, trained_weights
from alignment.models.adapters.merge import merge_stream
from alignment.models.adapters.merged import load_merged
from alignment.models.decoder.decoder import CausalLM
from alignment.models.decoder.layers import packed_layers, unpacked_weights
from alignment.models.decoder.placement import WHOLE
from alignment.models.decoder.score_model import ScoreOptions
from alignment.models.folders.hub import load_causal_lm, load_score_model
from alignment.models.folders.probe import largest_difference, probe
from alignment.models.folders.saving import WeightSource, save_model
from alignment.parallel.dense import DenseRunner
from alignment.records import TokenBatch
from alignment.training.objectives import supervised_objective
from tests.tiny_models import tiny_causal, tiny_config, tiny_score

FOUR_BIT = replace(WHOLE, four_bit=True)
WIDE = {"hidden_size": 64, "intermediate_size": 128, "num_key_value_heads": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    save_model(folder, tiny_causal(std=0.1, **WIDE), None)
    return folder


@pytest.fixture
def packed(folder):
    return load_causal_lm(folder, placement=FOUR_BIT)


@pytest.fixture
def unpacked(folder, packed):
    """A plain model with the numbers of the one in 4 bits."""
    model = load_causal_lm(folder)
    numbers = dict(unpacked_weights(packed, dtype=paddle.float32))
    for name, parameter in model.named_parameters():
        if name in numbers:
            parameter.set_value(numbers[name])
    return model


def _adapt(model, *, seed=3):
    attach_adapter(model, Adapter(rank=2, alpha=4, modules=choose_modules(model.config, ["all-linear"])), seed=seed)
    generator = np.random.default_rng(0)
    for name, parameter in model.named_parameters():
        if name.endswith("lora_B.weight"):
            parameter.set_value(paddle.to_tensor(generator.standard_normal(parameter.shape).astype("float32") * 0.1))
    return model


def _gradients(model):
    rows, targets = ([1, 2, 3, 4, 5, 6], [3, 4, 5]), ([2, 3, 5], [1, 2])
    batch = TokenBatch.build([np.array(row) for row in rows], [np.array(target) for target in targets])
    DenseRunner(model).forward_backward([batch], supervised_objective([batch]))
    return {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}


def test_every_matrix_of_the_layers_is_packed_and_nothing_else(packed):
    names = [name for name, _ in packed_layers(packed)]
    assert names == [name for name in packed.parts if name.endswith("_proj.weight")] and len(names) == 14
    assert sorted([*names, *(name for name, _ in packed.named_parameters())]) == sorted(packed.parts)


def test_the_model_computes_what_its_unpacked_weights_do(folder, packed, unpacked):
    assert largest_difference(probe(packed), probe(unpacked)) < 1e-5
    assert largest_difference(probe(packed), probe(load_causal_lm(folder))) > 1e-3


def test_an_adapter_gets_the_gradients_of_the_unpacked_base(packed, unpacked):
    mine, wanted = _gradients(_adapt(packed)), _gradients(_adapt(unpacked))
    assert list(mine) == list(wanted) and all(map(is_factor, mine))
    for name, gradient in wanted.items():
        np.testing.assert_allclose(mine[name], gradient, rtol=1e-4, atol=1e-6, err_msg=name)


def test_a_rollout_gets_the_unpacked_base_with_the_adapter_merged_in(packed, unpacked):
    _adapt(packed)
    tensors = chain(packed.named_parameters(), unpacked_weights(packed, dtype=packed.model.dtype))
    merged = dict(merge_stream(tensors, packed.adapter))
    assert sorted(merged) == sorted(name for name, _ in unpacked.named_parameters())
    for name, parameter in unpacked.named_parameters():
        parameter.set_value(merged[name])
    assert largest_difference(probe(unpacked), probe(packed)) < 1e-5


def test_a_score_model_has_a_whole_head_on_a_base_in_4_bits(tmp_path):
    save_model(tmp_path, tiny_score(**WIDE), None)
    model = load_score_model(tmp_path, options=ScoreOptions(), placement=FOUR_BIT)
    assert len([*packed_layers(model)]) == 14
    assert "score.weight" in dict(model.named_parameters())


def test_matrices_without_whole_blocks_are_refused_by_their_inputs():
    with pytest.raises(AdapterError, match="load_in_4bit: a matrix of the layers has 8 inputs on each process"):
        CausalLM(tiny_config(), placement=FOUR_BIT)


def test_a_folder_tells_that_its_base_was_in_4_bits_and_merging_says_so(folder, packed, tmp_path, monkeypatch):
    _adapt(packed)
    save_adapter(tmp_path / "adapter", packed, None, trained_weights(WeightSource.of(packed)))
    said = []
    monkeypatch.setattr("alignment.models.adapters.merged.log.warn", said.append)
    merged = load_merged(tmp_path / "adapter", folder, content="").model
    assert len(said) == 1 and "was trained with its base in 4 bits" in said[0]
    assert largest_difference(probe(merged), probe(_adapt(load_causal_lm(folder)))) < 1e-5
