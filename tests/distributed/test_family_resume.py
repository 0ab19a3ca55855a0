"""PPO of a small Gemma in sharding stage 3, and of a small Mixtral with different experts in its processes, goes on bit
for bit, and in one process with the same numbers.
"""

from __future__ import annotations

import pytest

from alignment.parity.subjects import SMALL_MODEL, as_one_process, make_models
from tests.distributed import layout_runs as runs

pytestmark = [pytest.mark.distributed, pytest.mark.slow, pytest.mark.rare]
MIXTRAL = {"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None}
STAGE3 = {"sharding": "stage3", "sharding_parallel_degree": 2}
EXPERTS = {"tensor_parallel_degree": 2, "expert_parallel_degree": 2}
FAMILIES = {
    "gemma": ({"model_type": "gemma", "num_key_value_heads": 1}, {}, STAGE3),
    "mixtral": (MIXTRAL, {"aux_loss_coef": 0.05, "adam_epsilon": 1e-4, "use_rollout_routing_replay": True}, EXPERTS),
}
"""Shape, keys and layout. See ``test_mixtures.py`` for the large epsilon."""


@pytest.fixture(scope="module", params=FAMILIES)
def place(request, tmp_path_factory):
    """The folder with a family's models and the unbroken run, the keys of its runs, and its layout."""
    shape, own, layout = FAMILIES[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    make_models(folder, {**SMALL_MODEL, **shape})
    keys = {**runs.CHECKPOINTS, **own}
    runs.train(folder, "unbroken", {**keys, **layout}, world_size=2)
    return folder, keys, layout


def test_it_goes_on_bit_for_bit_and_in_one_process(place):
    folder, keys, layout = place
    start = {"resume_from_checkpoint": str(folder / "unbroken" / "checkpoint-2")}
    resumed = runs.train(folder, "resumed", {**keys, **layout, **start}, world_size=2)
    assert runs.files(resumed) == runs.files(folder / "unbroken")
    alone = as_one_process(keys, batch_ranks=2 if layout is STAGE3 else 1, trainer="ppo")
    one = runs.train(folder, "alone", {**alone, **start}, world_size=1)
    assert runs.largest_difference(runs.weights(folder / "unbroken"), runs.weights(one)) < 1e-5
