"""Adapters: attached to a model, trained alone, switched off, merged, saved and read."""

from __future__ import annotations

import json

import numpy as np
import paddle
import pytest
from safetensors.numpy import load_file, save_file

from alignment.architecture.adapter import Adapter, choose_modules, is_factor
from alignment.errors import AdapterError, NotFiniteError
from alignment.models.adapters.attach import BaseRunner, attach_adapter
from alignment.models.adapters.folder import load_adapter, save_adapter, trained_weights
from alignment.models.adapters.merge import merge_into_base, merge_stream
from alignment.models.adapters.peft_config import read_adapter
from alignment.models.decoder.score_model import ScoreOptions
from alignment.models.folders.probe import largest_difference, probe
from alignment.models.folders.saving import WeightSource
from alignment.parallel.dense import DenseRunner
from alignment.records import TokenBatch
from alignment.training.objectives import read_logprobs, supervised_objective
from tests.tiny_models import tiny_causal, tiny_config, tiny_score

ROWS = ([1, 2, 3, 4, 5, 6], [3, 4, 5], [7, 8, 9, 10])
TARGETS = ([2, 3, 5], [1, 2], [3])


def _adapter(config, targets=("all-linear",), **changes):
    return Adapter(**{"rank": 3, "alpha": 6, "modules": choose_modules(config, targets), **changes})


def _adapted(model=None, *, trained=True, targets=("all-linear",), **changes):
    """Return a model with an adapter, ``trained`` if its B is not zero."""
    model = tiny_causal() if model is None else model
    attach_adapter(model, _adapter(model.config, targets, **changes), seed=5)
    if trained:
        generator = np.random.default_rng(0)
        for name, parameter in model.named_parameters():
            if name.endswith("lora_B.weight"):
                values = generator.standard_normal(parameter.shape).astype("float32") * 0.1
                parameter.set_value(paddle.to_tensor(values).astype(parameter.dtype))
    return model


def _batches(sizes=(3,)):
    cuts = np.cumsum((0, *sizes))
    return [
        TokenBatch.build([np.array(row) for row in ROWS[a:b]], [np.array(t) for t in TARGETS[a:b]])
        for a, b in zip(cuts, cuts[1:], strict=False)
    ]


def _gradients(model, sizes=(3,), *, recompute=""):
    model.clear_gradients()
    model.model.recompute, model.model.recompute_granularity = bool(recompute), recompute
    batches = _batches(sizes)
    DenseRunner(model).forward_backward(batches, supervised_objective(batches))
    return {name: p.grad.numpy().copy() for name, p in model.named_parameters() if p.grad is not None}


def test_a_new_adapter_changes_nothing():
    before = probe(tiny_causal())
    assert largest_difference(probe(_adapted(trained=False)), before) == 0


def test_a_is_uniform_within_one_over_the_root_of_its_inputs_as_in_peft():
    model = _adapted(tiny_causal(hidden_size=64, num_attention_heads=2, head_dim=32), trained=False)
    values = model.model.layers[0]["attention"]["queries"].lora_A.weight.numpy()
    assert 0.95 / 8 < np.abs(values).max() <= 1 / 8
    assert abs(values.std() - 1 / 8 / np.sqrt(3)) < 0.01


def test_only_the_factors_are_trained():
    model = _adapted(targets=("q_proj", "down_proj"))
    gradients = _gradients(model)
    trained = [name for name, p in model.named_parameters() if not p.stop_gradient]
    assert trained == [name for name, _ in model.named_parameters() if is_factor(name)] and len(trained) == 8
    assert sorted(gradients) == sorted(trained)
    assert all(np.abs(gradient).max() > 0 for gradient in gradients.values())


def test_a_score_head_is_trained_too():
    model = _adapted(tiny_score(ScoreOptions(score_bias=True)))
    trained = {name for name, p in model.named_parameters() if not p.stop_gradient}
    assert trained - {name for name in trained if is_factor(name)} == {"score.weight", "score.bias"}


def test_gradients_are_those_of_the_merged_matrix_by_the_chain_rule():
    """With G the gradient of W + s A B: dA = s G B', dB = s A' G."""
    model = _adapted(targets=("o_proj",))
    gradients = _gradients(model)
    factors = {n: p.numpy() for n, p in model.named_parameters() if is_factor(n)}
    merge_into_base(model)
    for parameter in model.parameters():
        parameter.stop_gradient = False
    whole = _gradients(model)
    module = "model.layers.1.self_attn.o_proj"
    first, second = (f"{module}.{name}.weight" for name in ("lora_A", "lora_B"))
    np.testing.assert_allclose(gradients[first], 2 * whole[f"{module}.weight"] @ factors[second].T, atol=1e-6)
    np.testing.assert_allclose(gradients[second], 2 * factors[first].T @ whole[f"{module}.weight"], atol=1e-6)


@pytest.mark.parametrize("recompute", ["full", "full_attn", "core_attn"])
def test_recomputation_gives_the_same_gradients(recompute):
    model = _adapted(dropout=0.5)
    kept = _gradients(model)
    again = _gradients(model, recompute=recompute)
    assert kept.keys() == again.keys()
    for name, gradient in kept.items():
        np.testing.assert_allclose(again[name], gradient, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 1)])
def test_gradients_with_dropout_do_not_depend_on_the_micro_batches(sizes):
    model = _adapted(dropout=0.5)
    together, apart = _gradients(model), _gradients(model, sizes)
    for name, gradient in together.items():
        np.testing.assert_allclose(apart[name], gradient, atol=1e-6, err_msg=name)


def test_dropout_changes_from_update_to_update_and_is_off_in_evaluation():
    model = _adapted(dropout=0.5)
    first = _gradients(model)
    model.model.adapter.update = 1
    name = next(iter(first))
    assert np.abs(_gradients(model)[name] - first[name]).max() > 1e-4
    outputs = probe(model)
    model.model.adapter.update = 2
    assert largest_difference(probe(model), outputs) == 0


def test_the_base_runner_computes_what_the_base_does():
    model = _adapted()
    runner, batches = DenseRunner(model), _batches()
    adapted = runner.forward(batches, read_logprobs)[0]
    base = BaseRunner(runner).forward(batches, read_logprobs)[0]
    np.testing.assert_array_equal(base, DenseRunner(tiny_causal()).forward(batches, read_logprobs)[0])
    assert np.abs(adapted - base).max() > 1e-3
    np.testing.assert_array_equal(runner.forward(batches, read_logprobs)[0], adapted)


@pytest.mark.parametrize("make", [tiny_causal, tiny_score])
def test_a_merged_model_computes_the_same_and_is_plain(make):
    model = _adapted(make())
    adapted = probe(model)
    merge_into_base(model)
    assert largest_difference(probe(model), adapted) < 2e-5
    plain = make()
    assert [n for n, _ in model.named_parameters()] == [n for n, _ in plain.named_parameters()]
    assert (model.parts, model.whole_shapes, model.adapter) == (plain.parts, plain.whole_shapes, None)


def test_weights_for_a_rollout_are_merged_one_by_one_in_their_own_dtype():
    model = _adapted(tiny_causal(dtype="bfloat16"), targets=("q_proj",))
    streamed = dict(merge_stream(model.named_parameters(), model.adapter))
    assert list(streamed) == list(dict(tiny_causal().named_parameters()))
    name = "model.layers.1.self_attn.q_proj"
    weight, first, second = (
        dict(model.named_parameters())[f"{name}{part}.weight"].astype("float32") for part in ("", ".lora_A", ".lora_B")
    )
    assert streamed[f"{name}.weight"].dtype == paddle.bfloat16
    wanted = (weight + first @ second * 2).astype("bfloat16").astype("float32").numpy()
    np.testing.assert_array_equal(streamed[f"{name}.weight"].astype("float32").numpy(), wanted)


@pytest.fixture
def saved(tmp_path):
    """An adapted model and the folder that its adapter was written to."""
    model = _adapted()
    save_adapter(tmp_path / "adapter", model, None, trained_weights(WeightSource.of(model)))
    return model, tmp_path / "adapter"


def _reload(folder, model=None):
    model = tiny_causal() if model is None else model
    attach_adapter(model, read_adapter(folder, model.config), seed=99)
    load_adapter(folder, model)
    return model


def test_an_adapter_is_read_as_it_was_written(saved):
    model, folder = saved
    assert largest_difference(probe(_reload(folder)), probe(model)) == 0
    stored = load_file(folder / "adapter_model.safetensors")
    assert len(stored) == 2 * 2 * 7
    assert stored["base_model.model.model.layers.1.mlp.down_proj.lora_A.weight"].shape == (3, 12)
    assert stored["base_model.model.model.layers.1.mlp.down_proj.lora_B.weight"].shape == (8, 3)


def test_a_score_adapter_holds_its_head_and_its_statistics(tmp_path):
    options = ScoreOptions(do_normalize=True, normalizer_type="RunningMeanStd", score_bias=True)
    model = _adapted(tiny_score(options, seed=3))
    model.normalizer.update(np.array([1.0, 4.0]))
    save_adapter(tmp_path, model, None, trained_weights(WeightSource.of(model)))
    other = tiny_score(ScoreOptions(score_bias=True), seed=3)
    other.score.weight.set_value(paddle.zeros_like(other.score.weight))
    read = _reload(tmp_path, other)
    assert largest_difference(probe(read), probe(model)) == 0
    assert read.options == model.options and read.normalizer.state() == model.normalizer.state()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"hidden_size": 16, "head_dim": 4}, "has shape"),
        ({"num_hidden_layers": 3}, "missing tensor(s): model.layers.2."),
        ({"num_hidden_layers": 1}, "unknown tensor(s): model.layers.1."),
    ],
)
def test_an_adapter_of_another_base_is_refused(saved, changes, says):
    with pytest.raises(AdapterError) as error:
        _reload(saved[1], tiny_causal(**changes))
    assert "the adapter belongs to another base model" in str(error.value) and says in str(error.value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3' (readable: 'LORA')"),
        ({"use_dora": True}, "use_dora=True is not supported"),
        ({"rank_pattern": {"q_proj": 2}}, "rank_pattern={'q_proj': 2} is not supported"),
        ({"bias": "all"}, "bias='all' is not supported"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa' is not supported"),
        ({"modules_to_save": ["embed_tokens"]}, "modules_to_save holds 'embed_tokens'"),
        ({"r": 0}, "r=0 is not a number above 0"),
        ({"lora_alpha": None}, "lora_alpha=None is not a number above 0"),
        ({"target_modules": []}, "target_modules names no module"),
        ({"target_modules": ["query"]}, "does not fit the base: lora_target_modules: 'query' matches no module"),
    ],
)
def test_a_description_that_asks_for_something_else_is_refused(saved, changes, says):
    path = saved[1] / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(AdapterError) as error:
        read_adapter(saved[1], tiny_config())
    assert says in str(error.value) and str(path) in str(error.value)


def test_keys_of_newer_versions_of_peft_that_ask_for_nothing_are_read_over(saved):
    path = saved[1] / "adapter_config.json"
    newer = {"alpha_pattern": {}, "exclude_modules": None, "use_new": False, "peft_version": "9.9"}
    path.write_text(json.dumps(json.loads(path.read_text()) | newer))
    assert read_adapter(saved[1], tiny_config()).rank == 3


@pytest.mark.parametrize("family", ["gpt2", "phi3", "glm4"])
def test_an_adapter_of_matrices_that_peft_knows_otherwise_says_so(family, tmp_path):
    sizes = {"model_type": family, "pad_token_id": 0, "partial_rotary_factor": 1.0 if family == "phi3" else 0.5}
    model = _adapted(tiny_causal(**sizes))
    save_adapter(tmp_path, model, None, trained_weights(WeightSource.of(model)))
    path = tmp_path / "adapter_config.json"
    described = json.loads(path.read_text())
    assert described["peft_type"] == "ALIGNMENT_LORA"  # which peft refuses; it would else apply o_proj alone
    read = tiny_causal(**sizes)
    attach_adapter(read, read_adapter(tmp_path, read.config), seed=0)
    load_adapter(tmp_path, read)
    assert largest_difference(probe(read), probe(model)) == 0
    path.write_text(json.dumps(described | {"peft_type": "LORA"}))
    with pytest.raises(AdapterError, match=f"self_attn.q_proj of a {family} model is another matrix"):
        read_adapter(tmp_path, read.config)


def test_matrices_that_peft_knows_by_the_same_names_are_in_its_format(tmp_path):
    sizes = {"model_type": "phi3", "pad_token_id": 0}
    model = _adapted(tiny_causal(**sizes), targets=("o_proj", "down_proj"))
    save_adapter(tmp_path, model, None, trained_weights(WeightSource.of(model)))
    assert json.loads((tmp_path / "adapter_config.json").read_text())["peft_type"] == "LORA"
    assert read_adapter(tmp_path, model.config).modules == model.adapter.modules


def test_a_damaged_adapter_is_refused(saved):
    path = saved[1] / "adapter_model.safetensors"
    stored = load_file(path)
    stored[min(stored)][0, 0] = np.nan
    save_file(stored, path)
    with pytest.raises(AdapterError, match="holds NaN or infinite numbers"):
        _reload(saved[1])
    path.unlink()
    with pytest.raises(AdapterError, match="no such file"):
        _reload(saved[1])


def test_an_adapter_that_is_not_finite_is_not_written(tmp_path):
    model = _adapted(tiny_causal(dtype="bfloat16"))
    parameter = next(p for n, p in model.named_parameters() if is_factor(n))
    parameter.set_value(paddle.full_like(parameter, float("nan")))
    with pytest.raises(NotFiniteError, match=r"lora_A.weight holds NaN"):
        save_adapter(tmp_path, model, None, trained_weights(WeightSource.of(model)))
