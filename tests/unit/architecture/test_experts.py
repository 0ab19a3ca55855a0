"""What config.json says of experts, and what is refused."""

from __future__ import annotations

import pytest

from alignment.architecture.adapter import choose_modules
from alignment.architecture.decoder_config import DecoderConfig
from alignment.architecture.experts import Experts
from alignment.errors import AdapterError, ModelFolderError
from tests.tiny_models import tiny_config

MIXTRAL = {"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2}
QWEN2 = {
    "model_type": "qwen2_moe",
    "num_experts": 6,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 5,
    "shared_expert_intermediate_size": 7,
}


def test_mixtral():
    assert tiny_config(**MIXTRAL).experts == Experts(count=4, top_k=2, inner=12, aux_loss_coef=0.001)
    assert tiny_config().experts is None


def test_qwen2_with_dense_layers():
    config = tiny_config(**QWEN2, num_hidden_layers=5, decoder_sparse_step=2, mlp_only_layers=[3])
    wanted = Experts(count=6, top_k=3, inner=5, shared_inner=7, normalises=False, dense_layers=(0, 2, 3, 4))
    assert config.experts == Experts(**{**{k: getattr(wanted, k) for k in wanted.__slots__}, "aux_loss_coef": 0.001})
    assert [config.has_experts(number) for number in range(5)] == [False, True, False, False, False]


@pytest.mark.parametrize("name", ["num_experts", "num_local_experts"])
def test_both_spellings_of_transformers(name):
    config = tiny_config(**{**QWEN2, "model_type": "qwen3_moe", "num_experts": None, name: 6}, norm_topk_prob=True)
    assert (config.experts.count, config.experts.normalises) == (6, True)
    written = config.to_dict()
    assert written["num_experts"] == written["num_local_experts"] == 6
    assert DecoderConfig.from_dict(written) == config


def test_no_window_as_transformers_5_writes_it():
    assert tiny_config(**QWEN2, sliding_window=0, use_sliding_window=False).sliding_window is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_local_experts": 0}, "num_local_experts must be an integer from 1 to 65536, found 0"),
        ({"num_experts_per_tok": "2"}, "num_experts_per_tok must be an integer from 1 to 65536, found '2'"),
        ({"num_experts_per_tok": 5}, "num_experts_per_tok 5 is more than the 4 experts"),
        ({"router_jitter_noise": 0.1}, "router_jitter_noise 0.1 is not supported"),
        ({"router_aux_loss_coef": -1}, "router_aux_loss_coef must be a number from 0, found -1"),
    ],
)
def test_bad_values_are_named(changes, message):
    with pytest.raises(ModelFolderError, match=message):
        tiny_config(**{**MIXTRAL, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decoder_sparse_step": 0}, "decoder_sparse_step must be a positive integer, found 0"),
        ({"mlp_only_layers": [True]}, r"mlp_only_layers must be a list of layer numbers, found \[True\]"),
        ({"use_sliding_window": True}, "use_sliding_window is not supported in a model with experts"),
    ],
)
def test_bad_layers_are_named(changes, message):
    with pytest.raises(ModelFolderError, match=message):
        tiny_config(**{**QWEN2, **changes})


def test_experts_and_routers_are_not_adapted():
    config = tiny_config(**QWEN2, num_hidden_layers=2, mlp_only_layers=[0])
    names = {name.removeprefix("model.layers.") for name in choose_modules(config, ["all-linear"])}
    assert {name for name in names if "mlp" in name} == {
        *(f"0.mlp.{matrix}_proj" for matrix in ("gate", "up", "down")),
        *(f"1.mlp.shared_expert.{matrix}_proj" for matrix in ("gate", "up", "down")),
    }
    with pytest.raises(AdapterError, match="'w1' matches no module .* its experts and routers are not adapted"):
        choose_modules(tiny_config(**MIXTRAL), ["w1"])
