"""PPO, DPO and DPO with LoRA of small families: the first step is the reference's, and layouts equal one process.

All parameters are compared. Where a gradient is zero but for rounding (a key's bias without rotation: the softmax does
not see it), Adam makes a whole step in a random direction, in one process too if it adds its rows in another order,
unless ``adam_epsilon`` is far above the rounding; then gradients of a wrong scale are seen as well, which Adam else
hides. A bias starts at zero and holds nothing but its steps: a difference is compared with the whole steps of a run
where these are larger than the parameter.
"""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from alignment.parallel.local_ranks import run_ranks
from alignment.parity.subjects import ADAPTER, COMMON, make_models, write_arguments
from alignment.parity.trajectory import read_weights
from tests.tiny_models import in_own_names

pytestmark = [pytest.mark.distributed, pytest.mark.rare, pytest.mark.timeout(1200)]
SHAPE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
FEW_KEYS = {"num_key_value_heads": 2}
WINDOWS = {**FEW_KEYS, "head_dim": 8, "sliding_window": 6, "query_pre_attn_scalar": 12}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
FAMILIES = {
    "gemma": {**FEW_KEYS, "head_dim": 8},
    "gemma2": {**WINDOWS, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
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
GROUPS = {
    "gemma": ("gemma", "gemma2", "gemma3_text", "olmo2"),
    "experts": ("mixtral", "qwen2_moe", "qwen3_moe"),
    "learned positions": ("gpt2", "opt", "opt 350m"),
    "llama": ("mistral", "qwen2", "qwen3", "internlm2", "phi3"),
    "parallel": ("falcon", "falcon new", "gpt_neox", "phi", "glm4"),
}
"""Families that are trained in one start of the processes for each layout."""
CASES = [(group, family) for group, families in GROUPS.items() for family in families]
FIVE = ("gemma", "mixtral", "gpt2")
EPSILON = {"adam_epsilon": 1e-3}
OWN = dict.fromkeys(("mixtral", "qwen2_moe", "qwen3_moe"), {"aux_loss_coef": 0.05})
RUNS = {"ppo": ("ppo", EPSILON), "dpo": ("dpo", EPSILON), "lora": ("dpo", ADAPTER)}
"""Trainer and changes."""
TOGETHER = {"tensor_parallel_degree": 2, "pipeline_parallel_degree": 2}
STAGE3 = {"sharding": "stage3", "sharding_parallel_degree": 2, "gradient_accumulation_steps": 1}
"""Two processes do in one step what one process does in two."""
EXPERTS_APART = {"tensor_parallel_degree": 2, "expert_parallel_degree": 2}
LAYOUTS = {
    "one": (1, {}),
    "TP2xPP2": (4, TOGETHER),
    "PP2": (2, {"pipeline_parallel_degree": 2}),
    "Sh2": (2, STAGE3),
    "TP2xEP2": (2, EXPERTS_APART),
}
"""Processes and changes."""
LAYOUT_CASES = [
    (group, family, layout)
    for group, family in CASES
    for layout in LAYOUTS
    if layout != "TP2xEP2" or group == "experts"
]
"""Only experts can be held apart."""


def steps(family):
    """Return the number of updates."""
    return 5 if family in FIVE else 3


def write_jobs(folder, family, layout):
    """Return trainer and arguments of each run of a family in a layout."""
    jobs = []
    for run, (trainer, own) in RUNS.items():
        rows = {"per_device_prompt_batch_size": 1} if layout == "Sh2" and trainer == "ppo" else {}
        keys = {**own, **OWN.get(family, {}), "max_steps": steps(family), **LAYOUTS[layout][1], **rows}
        jobs.append((trainer, str(write_arguments(folder, trainer, f"{run}-{layout}", keys))))
    return jobs


@pytest.fixture(scope="module")
def folders(request, tmp_path_factory):
    """The folder of the runs of each family of a group."""
    found = {}
    for family in GROUPS[request.param]:
        found[family] = tmp_path_factory.mktemp(family.replace(" ", "-"))
        make_models(found[family], in_own_names({**SHAPE, **FAMILIES[family], "model_type": family.split()[0]}))
    for layout in dict.fromkeys(layout for group, _, layout in LAYOUT_CASES if group == request.param):
        world_size = LAYOUTS[layout][0]
        jobs = [job for family, folder in found.items() for job in write_jobs(folder, family, layout)]
        run_ranks("alignment.parity.trajectory:train_all", jobs, world_size=world_size, timeout=900)
    return found


def metrics(folder, run, layout):
    """Return the metrics of each update."""
    return [json.loads(line) for line in (folder / f"{run}-{layout}" / "metrics.jsonl").read_text().splitlines()]


def test_every_family_is_in_a_group():
    assert sorted(family for _, family in CASES) == sorted(FAMILIES)


@pytest.mark.parametrize(("folders", "family", "layout"), LAYOUT_CASES, indirect=["folders"], scope="module")
def test_the_first_step_is_that_of_the_reference(family, layout, folders):
    ppo, dpo = (metrics(folders[family], run, layout) for run in ("ppo", "dpo"))
    assert len(ppo) == len(dpo) == steps(family)
    assert abs(ppo[0]["kl/k1"]) < 1e-6
    assert ppo[0]["policy/ratio_mean"] == pytest.approx(1.0, abs=1e-6)
    assert dpo[0]["dpo/loss"] == pytest.approx(math.log(2), abs=1e-6)


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize(
    ("folders", "family", "layout"),
    [case for case in LAYOUT_CASES if case[2] != "one"],
    indirect=["folders"],
    scope="module",
)
def test_updates_equal_one_process(family, run, layout, folders):
    one, many = (read_weights(folders[family] / f"{run}-{name}") for name in ("one", layout))
    assert one and one.keys() == many.keys()
    for name, array in one.items():
        whole_steps = steps(family) * COMMON["learning_rate"] * math.sqrt(array.size)
        bound = 1e-5 * max(np.linalg.norm(array), whole_steps)
        assert np.linalg.norm(array - many[name]) <= bound, name
