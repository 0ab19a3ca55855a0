"""DPO whose products round their operands to bfloat16: the rule, this processor, and what is kept of the reference."""

from __future__ import annotations

import math

import numpy as np
import pytest

from alignment.errors import ArgumentError
from alignment.ops import onednn, products
from alignment.trainers.registered import TRAINERS
from tests.bf16.rounded import matmul as rounded_matmul
from tests.contract.keys.assembled import BASE, make_models
from tests.tiny_runs import train_tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Holds ``policy``, a tiny model."""
    place = tmp_path_factory.mktemp("dpo-precision")
    make_models(place)
    return place


def train(folder, name, **keys):
    return train_tiny("dpo", folder, name, model_name_or_path=str(folder / "policy"), **keys)


def test_products_and_weights_by_device(folder):
    keys = {**BASE["dpo"], "model_name_or_path": str(folder / "policy"), "output_dir": str(folder / "parsed")}
    half, rounded = (
        TRAINERS["dpo"].parse({**keys, **own}).training
        for own in ({"bf16": True, "fp16_opt_level": "O2"}, {"float32_matmul_precision": "medium"})
    )
    assert (half.product_dtype("gpu"), half.product_dtype("cpu")) == ("bfloat16", "float32")
    assert (rounded.product_dtype("gpu"), rounded.product_dtype("cpu")) == ("float32", "bfloat16")
    assert rounded.weight_dtype("cpu") == "float32"


@pytest.fixture
def rounding(monkeypatch):
    """Let a run round the operands of its products, on a processor that may not be able to."""
    monkeypatch.setattr(onednn, "matmul", rounded_matmul)
    monkeypatch.setattr(products, "_rounds", False)


def test_this_processor_rounds_as_the_rule_says_or_refuses(folder, monkeypatch):
    """What a processor with bfloat16 executes, beside the same rounding done beforehand."""
    keys = {"float32_matmul_precision": "medium", "max_steps": 2}
    monkeypatch.setattr(products, "_rounds", False)
    if onednn.find_obstacle() is not None:
        with pytest.raises(ArgumentError, match="float32_matmul_precision=medium needs a processor"):
            train(folder, "own-rounding", **keys)
        return
    own = train(folder, "own-rounding", **keys)
    monkeypatch.setattr(onednn, "matmul", rounded_matmul)
    for one, other in zip(own, train(folder, "rule", **keys), strict=True):
        assert one == pytest.approx(other, rel=1e-4, abs=2e-5)
    highest = train(folder, "highest", max_steps=2)
    assert own[1]["logps/chosen"] != highest[1]["logps/chosen"] == pytest.approx(own[1]["logps/chosen"], rel=1e-2)


LORA = {"lora": True, "lora_target_modules": ["all-linear"]}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {"float32_matmul_precision": "medium"}),
        ({"float32_matmul_precision": "medium"}, {}),
        (LORA, {**LORA, "load_in_4bit": True}),
    ],
)
def test_numbers_of_a_reference_that_computes_otherwise_are_computed_again(folder, rounding, before, after):
    """A policy that has not learned is its reference: any difference is that of the arithmetic."""
    keys = {"precompute_ref_logprobs": True, "overwrite_output_dir": True, "max_steps": 1}
    for changes in (before, after):
        first = train(folder, "computed", **keys, **changes)[0]
        assert first["dpo/loss"] == np.float32(math.log(2)) and first["rewards/chosen"] == 0.0
        assert first["policy/gradient_norm"] > 0
