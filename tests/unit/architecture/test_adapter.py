"""Adapters: which modules a target names, and which part of the factors a process holds."""

from __future__ import annotations

import pytest

from alignment.architecture.adapter import Adapter, adaptable_modules, choose_modules, name_targets
from alignment.architecture.cuts import local_part, whole_shapes
from alignment.errors import AdapterError
from tests.tiny_models import tiny_config

CONFIG = tiny_config(num_attention_heads=4, num_key_value_heads=2)
LAYER = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def _endings(modules):
    return [module.rpartition(".")[2] for module in modules]


@pytest.mark.parametrize(
    ("targets", "wanted"),
    [
        (["all-linear"], 2 * LAYER),
        (["v_proj", "q_proj"], 2 * ["q_proj", "v_proj"]),
        (["self_attn.o_proj"], 2 * ["o_proj"]),
        ([".*q_proj.*", ".*gate_proj.*"], 2 * ["q_proj", "gate_proj"]),
        (["model.layers.1.mlp.up_proj"], ["up_proj"]),
        ([r".*layers\.0\..*_proj"], LAYER),
    ],
)
def test_targets_are_ends_of_names_or_patterns_for_whole_names(targets, wanted):
    assert _endings(choose_modules(CONFIG, targets)) == wanted


@pytest.mark.parametrize("target", ["query", "proj", "lm_head", "q_proj.*"])
def test_a_target_that_matches_nothing_is_refused_with_the_names_that_exist(target):
    with pytest.raises(AdapterError) as error:
        choose_modules(CONFIG, ["v_proj", target])
    assert f"{target!r} matches no module of this llama model (its modules: {', '.join(LAYER)}; " in str(error.value)
    assert "a whole name is model.layers.0.self_attn.q_proj" in str(error.value)


def test_a_target_that_is_no_pattern_is_refused():
    with pytest.raises(AdapterError, match=r"'\*q_proj' is no regular expression"):
        choose_modules(CONFIG, ["*q_proj"])


@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], [r".*layers\.1\..*"], ["all-linear"]])
def test_the_targets_of_a_saved_adapter_mean_the_same_modules(targets):
    modules = choose_modules(CONFIG, targets)
    assert choose_modules(CONFIG, name_targets(CONFIG, modules)) == modules


@pytest.mark.parametrize(("stabilized", "scaling"), [(False, 2.0), (True, 4.0)])
def test_the_scaling(stabilized, scaling):
    assert Adapter(rank=4, alpha=8, modules=(), rank_stabilized=stabilized).scaling == scaling


@pytest.mark.parametrize(
    ("module", "first", "second"),
    [
        # columns are cut: A is whole, B has the columns of its matrix
        ("model.layers.0.self_attn.q_proj", ((0, 8), (0, 3)), ((0, 3), (4, 8))),
        # the second of two key heads
        ("model.layers.1.self_attn.k_proj", ((0, 8), (0, 3)), ((0, 3), (2, 4))),
        # rows are cut: A has the rows of its matrix, B is whole
        ("model.layers.1.mlp.down_proj", ((6, 12), (0, 3)), ((0, 3), (0, 8))),
    ],
)
def test_a_process_holds_the_factors_of_its_part(module, first, second):
    shapes = whole_shapes(CONFIG, "causal")
    name = f"{module}.weight"
    part = local_part(name, shapes[name], CONFIG, tensor_degree=2, tensor_index=1)
    found = Adapter(rank=3, alpha=6, modules=tuple(adaptable_modules(CONFIG))).parts({name: part})
    assert [part.box for part in found.values()] == [first, second]
    assert [part.shape for part in found.values()] == [(shapes[name][0], 3), (3, shapes[name][1])]
