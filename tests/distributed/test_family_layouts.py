"""PPO and DPO of four small families: the first step is the reference's, and TP2xPP2 equals one process."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from layout_runs import weights

from alignment.parallel.local_ranks import run_ranks
from alignment.parity.subjects import make_models, write_arguments

pytestmark = [pytest.mark.distributed, pytest.mark.rare]
SHAPE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
FAMILIES = {
    "gemma": {"num_key_value_heads": 2, "head_dim": 8},
    "gpt2": {},
    "phi3": {"num_key_value_heads": 2},
    "internlm2": {"num_key_value_heads": 2, "bias": True},
}
LAYOUTS = {"one": {}, "many": {"tensor_parallel_degree": 2, "pipeline_parallel_degree": 2}}
TRAINERS = ("ppo", "dpo")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The folder of the runs of each family; one start of processes for each layout."""
    found = {}
    for family, own in FAMILIES.items():
        found[family] = tmp_path_factory.mktemp(family)
        make_models(found[family], {**SHAPE, **own, "model_type": family})
    for layout, changes in LAYOUTS.items():
        runs = [
            (trainer, str(write_arguments(folder, trainer, f"{trainer}-{layout}", changes)))
            for folder in found.values()
            for trainer in TRAINERS
        ]
        run_ranks("alignment.parity.trajectory:train_all", runs, world_size=4 if changes else 1, timeout=300)
    return found


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_first_step_of_ppo_is_that_of_the_reference(family, layout, folders):
    lines = (folders[family] / f"ppo-{layout}" / "metrics.jsonl").read_text().splitlines()
    first = json.loads(lines[0])
    assert len(lines) == 5
    assert abs(first["kl/k1"]) < 1e-6
    assert first["policy/ratio_mean"] == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("trainer", TRAINERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_five_updates_in_tp2_x_pp2_equal_one_process(family, trainer, folders):
    one, many = (weights(folders[family] / f"{trainer}-{layout}") for layout in LAYOUTS)
    assert one.keys() == many.keys()
    for name, array in one.items():
        other = many[name]
        # A key's bias has a gradient of rounding only, which Adam enlarges.
        if name.endswith("attn.c_attn.bias"):
            array, other = (np.delete(x.reshape(3, -1), 1, axis=0) for x in (array, other))
        if name.endswith("attention.wqkv.bias"):  # two groups of two queries, a key and a value
            array, other = (np.delete(x.reshape(2, 4, -1), 2, axis=1) for x in (array, other))
        assert np.linalg.norm(array - other) <= 1e-5 * np.linalg.norm(array), name
