"""PPO, DPO and DPO with LoRA of small families: the first step is the reference's, and layouts equal one process."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from alignment.parallel.local_ranks import run_ranks
from alignment.parity.subjects import ADAPTER, make_models, write_arguments
from alignment.parity.trajectory import read_weights

pytestmark = [pytest.mark.distributed, pytest.mark.rare, pytest.mark.timeout(2400)]
SHAPE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
FEW_KEYS = {"num_key_value_heads": 2}
WINDOWS = {**FEW_KEYS, "head_dim": 8, "sliding_window": 6, "attn_logit_softcapping": 2.0, "query_pre_attn_scalar": 12}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
FAMILIES = {
    "gemma": {**FEW_KEYS, "head_dim": 8},
    "gemma2": {**WINDOWS, "final_logit_softcapping": 3.0},
    "gemma3_text": {**WINDOWS, "sliding_window_pattern": 2},
    "gpt2": {},
    "internlm2": {**FEW_KEYS, "bias": True},
    "mixtral": {**FEW_KEYS, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None},
    "olmo2": FEW_KEYS,
    "opt 350m": {"word_embed_proj_dim": 24, "do_layer_norm_before": False},
    "phi": {},
    "phi3": FEW_KEYS,
    "falcon": {},
    "falcon new": {"new_decoder_architecture": True, "num_kv_heads": 2},
    "glm4": {**FEW_KEYS, "head_dim": 8, "attention_bias": True},
    "gpt_neox": {"rotary_pct": 0.5},
    "mistral": {**FEW_KEYS, "sliding_window": 6},
    "opt": {},
    "qwen2": FEW_KEYS,
    "qwen2_moe": {**FEW_KEYS, **EXPERTS, "shared_expert_intermediate_size": 20},
    "qwen3": {**FEW_KEYS, "head_dim": 8},
    "qwen3_moe": {**FEW_KEYS, **EXPERTS, "head_dim": 8},
}
"""The model_type, with a word for another form of it, to what differs from ``SHAPE``."""
KEYS = dict.fromkeys(("mixtral", "qwen2_moe", "qwen3_moe"), {"aux_loss_coef": 0.05, "adam_epsilon": 1e-4})
"""See ``test_mixtures.py`` for the large epsilon."""
TURNED = {"phi": [0, 2], "gpt_neox": [0, 2], "glm4": [0, 1], "qwen2": [0, 1, 4, 5], "qwen2_moe": [0, 1, 4, 5]}
"""The numbers of a head that are turned by more than a hundredth of a radian for each token; others: all."""
TURNED |= {"opt": [], "opt 350m": []}
RUNS = {"ppo": ("ppo", {}), "dpo": ("dpo", {}), "lora": ("dpo", ADAPTER)}
"""Trainer and changes."""
TOGETHER = {"tensor_parallel_degree": 2, "pipeline_parallel_degree": 2}
STAGE3 = {"sharding": "stage3", "sharding_parallel_degree": 2, "gradient_accumulation_steps": 1}
"""Two processes do in one step what one process does in two."""
LAYOUTS = {"one": (1, {}), "TP2xPP2": (4, TOGETHER), "PP2": (2, {"pipeline_parallel_degree": 2}), "Sh2": (2, STAGE3)}
"""Processes and changes."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The folder of the runs of each family; one start of processes for each layout."""
    found = {}
    for family, own in FAMILIES.items():
        found[family] = tmp_path_factory.mktemp(family.replace(" ", "-"))
        make_models(found[family], {**SHAPE, **own, "model_type": family.split()[0]})
    for layout, (world_size, changes) in LAYOUTS.items():
        jobs = []
        for family, folder in found.items():
            for run, (trainer, own) in RUNS.items():
                rows = {"per_device_prompt_batch_size": 1} if layout == "Sh2" and trainer == "ppo" else {}
                keys = {**own, **KEYS.get(family, {}), **changes, **rows}
                jobs.append((trainer, str(write_arguments(folder, trainer, f"{run}-{layout}", keys))))
        run_ranks("alignment.parity.trajectory:train_all", jobs, world_size=world_size, timeout=900)
    return found


def metrics(folder, run, layout):
    """Return the metrics of each update."""
    lines = (folder / f"{run}-{layout}" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 5
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_first_step_is_that_of_the_reference(family, layout, folders):
    first = metrics(folders[family], "ppo", layout)[0]
    assert abs(first["kl/k1"]) < 1e-6
    assert first["policy/ratio_mean"] == pytest.approx(1.0, abs=1e-6)
    assert metrics(folders[family], "dpo", layout)[0]["dpo/loss"] == pytest.approx(math.log(2), abs=1e-6)


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "one"])
@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("family", FAMILIES)
def test_five_updates_equal_one_process(family, run, layout, folders):
    one, many = (read_weights(folders[family] / f"{run}-{name}") for name in ("one", layout))
    assert one and one.keys() == many.keys()
    for name, array in one.items():
        other = many[name]
        # The bias of a key that is turned little or not has a gradient of rounding only, which Adam enlarges.
        if name.endswith("k_proj.bias"):
            array, other = (x.reshape(-1, 8)[:, TURNED.get(family, slice(None))] for x in (array, other))
        if name.endswith("attn.c_attn.bias"):
            array, other = (np.delete(x.reshape(3, -1), 1, axis=0) for x in (array, other))
        if name.endswith("attention.query_key_value.bias"):  # of each head a query, a key and a value
            array, other = (np.delete(x.reshape(4, 3, 8), 1, axis=1) for x in (array, other))
        if name.endswith("attention.wqkv.bias"):  # two groups of two queries, a key and a value
            array, other = (np.delete(x.reshape(2, 4, -1), 2, axis=1) for x in (array, other))
        assert np.linalg.norm(array - other) <= 1e-5 * np.linalg.norm(array), name
