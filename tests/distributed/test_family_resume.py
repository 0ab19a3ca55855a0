"""PPO and DPO of a small Gemma in sharding stage 3, of a GPT-2 in TP2, and of a Mixtral with different experts in its
processes, go on bit for bit, and in one process with the same numbers.
"""

from __future__ import annotations

import pytest

from alignment.parallel.local_ranks import run_ranks
from alignment.parity.subjects import SMALL_MODEL, as_one_process, make_models, write_arguments
from tests.distributed import layout_runs as runs
from tests.tiny_models import in_own_names

pytestmark = [pytest.mark.distributed, pytest.mark.slow, pytest.mark.rare, pytest.mark.timeout(1200)]
MIXTRAL = {"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None}
STAGE3 = {"sharding": "stage3", "sharding_parallel_degree": 2}
TENSOR = {"tensor_parallel_degree": 2}
FAMILIES = {
    "gemma": ({"model_type": "gemma", "num_key_value_heads": 1}, {}, STAGE3),
    "gpt2": ({"model_type": "gpt2"}, {}, TENSOR),
    "mixtral": (MIXTRAL, {"aux_loss_coef": 0.05}, {**TENSOR, "expert_parallel_degree": 2}),
}
"""Shape, keys and layout."""
EPSILON = {"adam_epsilon": 1e-3}
"""See ``test_family_layouts.py``."""
OF_PPO = {"mixtral": {"use_rollout_routing_replay": True}}
TRAINERS = ("ppo", "dpo")


def train_both(folder, output, changes, *, world_size):
    """Run both trainers in one start of the processes, with the changes of each."""
    jobs = [(name, str(write_arguments(folder, name, f"{name}-{output}", changes[name]))) for name in TRAINERS]
    run_ranks("alignment.parity.trajectory:train_all", jobs, world_size=world_size, timeout=600)


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request, tmp_path_factory):
    """The folder with a family's models and its unbroken, resumed and single-process runs."""
    shape, own, layout = FAMILIES[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    make_models(folder, in_own_names({**SMALL_MODEL, **shape}))
    ppo = OF_PPO.get(request.param, {})
    both = {**runs.CHECKPOINTS, **EPSILON, **own}
    keys = {"ppo": {**both, **ppo}, "dpo": both}
    starts = {name: {"resume_from_checkpoint": str(folder / f"{name}-unbroken" / "checkpoint-2")} for name in TRAINERS}
    train_both(folder, "unbroken", {name: {**keys[name], **layout} for name in TRAINERS}, world_size=2)
    train_both(folder, "resumed", {name: {**keys[name], **layout, **starts[name]} for name in TRAINERS}, world_size=2)
    ranks = 2 if layout is STAGE3 else 1
    alone = {name: as_one_process(keys[name], batch_ranks=ranks, trainer=name) | starts[name] for name in TRAINERS}
    train_both(folder, "alone", alone, world_size=1)
    return folder


@pytest.mark.parametrize("trainer", TRAINERS)
def test_it_goes_on_bit_for_bit(folder, trainer):
    found = runs.files(folder / f"{trainer}-resumed")
    assert found and found == runs.files(folder / f"{trainer}-unbroken")


@pytest.mark.parametrize("trainer", TRAINERS)
def test_it_goes_on_in_one_process(folder, trainer):
    one, other = (runs.weights(folder / f"{trainer}-{output}") for output in ("unbroken", "alone"))
    assert runs.largest_difference(one, other) < 1e-5
