"""The adapter that a run trains: new, continued or resumed, and refused where the arguments contradict it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from alignment.architecture.adapter import is_factor
from alignment.arguments.keys.adapter import AdapterArguments
from alignment.errors import ArgumentError, CheckpointError
from alignment.models.adapters.attach import attach_adapter
from alignment.models.adapters.folder import save_adapter, trained_weights
from alignment.models.folders.saving import WeightSource
from alignment.parallel.topology import Topology
from alignment.runs.adapters import adapt, frozen_base, warn_of_start
from alignment.runs.frozen import FrozenInput
from tests.tiny_models import tiny_causal, tiny_score

BASE = FrozenInput("the base of the policy", "folder/of/base", "its checksum")


def _launch(checkpoint=None, **keys):
    parsed = SimpleNamespace(
        adapter=AdapterArguments(lora=True, **keys), given=keys.__contains__, training=SimpleNamespace(seed=3)
    )
    return SimpleNamespace(parsed=parsed, checkpoint=checkpoint, topology=Topology(device="cpu"))


def _adapted(launch, model=None, *, folder=None, continues=True):
    model = tiny_causal() if model is None else model
    adapt(launch, "policy", model, BASE, folder=folder, continues=continues)
    return model


def _factors(model):
    return {name: p.numpy().tolist() for name, p in model.named_parameters() if is_factor(name)}


@pytest.fixture
def saved(tmp_path):
    """A run's output folder with an adapter of rank 2 in it."""
    model = _adapted(_launch(lora_rank=2, lora_target_modules=("q_proj",)))
    for parameter in model.parameters():
        parameter.set_value(parameter + 0.5)
    save_adapter(tmp_path / "run" / "policy", model, None, trained_weights(WeightSource.of(model)))
    return tmp_path / "run"


def _checkpoint(saved):
    return SimpleNamespace(folder=saved, model_folder=lambda name: saved / name)


@pytest.mark.parametrize(
    ("keys", "scaling"),
    [
        ({}, 2),
        ({"lora_rank": 64}, 2),
        ({"lora_rank": 4, "lora_alpha": 12}, 3),
        ({"lora_rank": 16, "rslora": True}, 1),
        ({"lora_rank": 16, "rslora": True, "lora_alpha": 8}, 2),
    ],
)
def test_the_scaling_of_a_new_adapter(keys, scaling):
    assert _adapted(_launch(**keys)).adapter.scaling == scaling


def test_a_new_adapter_knows_its_base_and_is_drawn_from_the_seed():
    one, other = (_adapted(_launch()) for _ in range(2))
    assert (one.adapter.base, one.adapter.base_content) == ("folder/of/base", "its checksum")
    assert _factors(one) == _factors(other)


def test_the_share_of_trained_parameters_is_told(caplog):
    _adapted(_launch(lora_rank=2, lora_target_modules=("q_proj",)))
    assert "policy: an adapter of rank 2, scaling 2, in 2 modules: 64 of 1,384 parameters" in caplog.text


def test_lora_path_continues_with_the_adapter_it_names(saved):
    model = _adapted(_launch(lora_path=str(saved)))
    assert (model.adapter.rank, len(model.adapter.modules)) == (2, 2)
    assert min(min(row) for row in _factors(model)["model.layers.0.self_attn.q_proj.lora_B.weight"]) == 0.5


def test_another_model_of_the_run_does_not_continue_it(saved):
    assert _adapted(_launch(lora_path=str(saved)), continues=False).adapter.rank == 8


def test_a_reward_model_continues_the_adapter_of_a_language_model_with_a_new_head(saved):
    model, head = tiny_score(), tiny_score().score.weight.numpy().tolist()
    _adapted(_launch(lora_path=str(saved)), model)
    assert model.adapter.rank == 2 and model.score.weight.numpy().tolist() == head


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"lora_rank": 4}, "lora_rank: the adapter of lora_path="),
        ({"lora_target_modules": ("all-linear",)}, "has 2 modules, but 14 modules is asked for"),
    ],
)
def test_a_key_that_contradicts_lora_path_is_refused(saved, keys, says):
    with pytest.raises(ArgumentError, match=says):
        _adapted(_launch(lora_path=str(saved), **keys))


def test_a_folder_without_an_adapter_is_refused(tmp_path):
    with pytest.raises(ArgumentError, match=r"no adapter there; the folder of one holds adapter_config.json"):
        _adapted(_launch(lora_path=str(tmp_path)))


def test_a_resumed_run_has_the_adapter_of_its_checkpoint(saved):
    keys = {"lora_rank": 2, "lora_target_modules": ("q_proj",)}
    model = _adapted(_launch(_checkpoint(saved), **keys), folder="policy")
    assert min(min(row) for row in _factors(model)["model.layers.1.self_attn.q_proj.lora_B.weight"]) == 0.5


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"lora_rank": 3, "lora_target_modules": ("q_proj",)}, "has rank 2, but lora_rank asks for rank 3"),
        ({"lora_rank": 2}, "has 2 modules, but lora_target_modules asks for 14 modules"),
        (
            {"lora_rank": 2, "lora_target_modules": ("q_proj",), "lora_dropout": 0.1},
            "has dropout 0.0, but lora_dropout",
        ),
    ],
)
def test_a_resumed_run_that_asks_for_another_adapter_is_refused(saved, keys, says):
    with pytest.raises(CheckpointError, match=says):
        _adapted(_launch(_checkpoint(saved), **keys), folder="policy")


def test_a_base_is_frozen_only_with_an_adapter():
    launch = _launch()
    launch.parsed.adapter = AdapterArguments()
    assert frozen_base(launch, "policy", "no/such/folder") == []


def test_a_reference_that_is_not_the_start_is_told(caplog):
    warn_of_start(_launch())
    assert caplog.messages == []
    warn_of_start(_launch(lora_path="mine"))
    assert "lora_path=mine: training starts from that adapter, and the reference is the base without it" in caplog.text


def test_a_model_has_one_adapter():
    model = _adapted(_launch())
    with pytest.raises(AssertionError, match="a model has one adapter"):
        attach_adapter(model, model.adapter, seed=1)
