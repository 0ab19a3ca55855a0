"""PPO of a small Gemma in sharding stage 3 goes on bit for bit, and in one process with the same numbers."""

from __future__ import annotations

import pytest

from alignment.parity.subjects import SMALL_MODEL, as_one_process, make_models
from tests.distributed import layout_runs as runs

pytestmark = [pytest.mark.distributed, pytest.mark.slow, pytest.mark.rare]
FAMILIES = {
    "gemma": ({"model_type": "gemma", "num_key_value_heads": 1}, {}),
}
STAGE3 = {"sharding": "stage3", "sharding_parallel_degree": 2}


@pytest.fixture(scope="module", params=FAMILIES)
def place(request, tmp_path_factory):
    """The keys of a family's runs, and the folder with its models and the unbroken run."""
    shape, own = FAMILIES[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    make_models(folder, {**SMALL_MODEL, **shape})
    keys = {**runs.CHECKPOINTS, **own}
    runs.train(folder, "unbroken", {**keys, **STAGE3}, world_size=2)
    return folder, keys


def test_it_goes_on_bit_for_bit_and_in_one_process(place):
    folder, keys = place
    start = {"resume_from_checkpoint": str(folder / "unbroken" / "checkpoint-2")}
    resumed = runs.train(folder, "resumed", {**keys, **STAGE3, **start}, world_size=2)
    assert runs.files(resumed) == runs.files(folder / "unbroken")
    alone = as_one_process(keys, batch_ranks=2, trainer="ppo")
    one = runs.train(folder, "alone", {**alone, **start}, world_size=1)
    assert runs.largest_difference(runs.weights(folder / "unbroken"), runs.weights(one)) < 1e-5
