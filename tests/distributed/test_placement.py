"""Roles on ranks of their own give the numbers of one process, bit for bit where each role is on one rank."""

from __future__ import annotations

from typing import Any

import pytest

from alignment.errors import UserError
from alignment.parallel.local_ranks import run_ranks
from alignment.parity.subjects import make_models, write_arguments
from alignment.telemetry.jsonl import read_json_lines
from tests.distributed import layout_runs as runs
from tests.serving import serving

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

UPDATES = 5
GRPO = {"rl_algorithm": "grpo", "kl_loss_coeff": 0.1, "num_return_sequences": 2}
KEPT = {"save_strategy": "steps", "save_steps": 2, **runs.STABLE}
APART = {"policy": [0], "critic": [1], "reference": [2], "reward": [3]}
WITHOUT_TIMES = ("time/", "memory/", "traffic/", "perf/")


def train(folder, world_size: int, **jobs: dict[str, Any]) -> None:
    """Run PPO once for each of ``jobs`` (changes by name of the output folder), in one launch."""
    # With a placement the critic learns beside the policy, from values that were measured before.
    common = {"max_steps": UPDATES, "values_from_update": False}
    paths = [write_arguments(folder, "ppo", name, {**common, **changes}) for name, changes in jobs.items()]
    target = "alignment.parity.trajectory:train_all"
    run_ranks(target, [("ppo", str(path)) for path in paths], world_size=world_size, timeout=300)


def metrics(folder) -> list[dict[str, float]]:
    """Return the records of a run without those that depend on the machine."""
    records = read_json_lines(folder / "metrics.jsonl")
    return [{key: value for key, value in row.items() if not key.startswith(WITHOUT_TIMES)} for row in records]


def assert_same_bits(folder, name: str, other: str) -> None:
    """Compare the exported tensors; the ranks share the work of writing them, so files may be cut elsewhere."""
    one, two = (runs.weights(folder / output) for output in (name, other))
    assert one.keys() == two.keys()
    assert [key for key, value in one.items() if value.tobytes() != two[key].tobytes()] == []


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("placement")
    make_models(place)
    two_rows = {"gradient_accumulation_steps": 4, "per_device_prompt_batch_size": 4}
    train(place, 1, ppo={}, grpo=GRPO, kept=KEPT, wide=two_rows)
    return place


def test_all_roles_apart_on_four_ranks_give_the_bits_of_one_process(folder):
    engine_apart = {**GRPO, "placement": {"policy": [3], "reference": [2], "reward": [0], "rollout": [1]}}
    train(folder, 4, ppo_apart={"placement": APART}, grpo_apart=engine_apart)
    for name in ("ppo", "grpo"):
        assert_same_bits(folder, name, f"{name}_apart")
        alone, apart = metrics(folder / name), metrics(folder / f"{name}_apart")
        assert len(alone) == UPDATES and alone == apart


def test_policy_and_critic_apart_share_the_frozen_models_and_go_on_alone_and_in_another_placement(folder):
    frozen_shared = {"policy": [0], "critic": [1], "reference": [0, 1], "reward": [0, 1]}
    resumed = {**KEPT, "resume_from_checkpoint": str(folder / "kept" / "checkpoint-2")}
    other = {"policy": [1], "critic": [0], "reference": "critic", "reward": "policy", "rollout": "critic"}
    three = {"policy": [0], "critic": [1], "reward": [1]}
    with serving("--reference", folder / "actor") as address:
        server = {"reference_server": address}
        train(
            folder, 2, shared={"placement": frozen_shared}, moved={**resumed, "placement": other},
            placed={**KEPT, "placement": other}, served={**KEPT, **server, "placement": three},
            served_tensor={**server, "tensor_parallel_degree": 2},
        )  # fmt: skip
        train(folder, 1, served_on={**KEPT, **server, "resume_from_checkpoint": str(folder / "served/checkpoint-2")})
    assert_same_bits(folder, "ppo", "shared")
    assert_same_bits(folder, "kept", "served")
    assert_same_bits(folder, "kept", "served_on")
    assert runs.largest_difference(runs.weights(folder / "ppo"), runs.weights(folder / "served_tensor")) < 1e-5
    assert_same_bits(folder, "kept", "placed")
    assert_same_bits(folder, "kept", "moved")
    assert (folder / "moved" / "policy_ema").is_dir()
    train(folder, 1, back={**KEPT, "resume_from_checkpoint": str(folder / "placed" / "checkpoint-2")})
    assert_same_bits(folder, "kept", "back")
    assert metrics(folder / "back") == metrics(folder / "kept")[2:]


def test_a_run_goes_on_only_with_the_reference_that_it_began_with(folder):
    """The checkpoint is that of a run that loaded its reference: the record is the same."""
    resumed = {**KEPT, "resume_from_checkpoint": str(folder / "kept" / "checkpoint-2")}
    with (
        serving("--reference", folder / "kept" / "policy") as address,
        pytest.raises(UserError, match=r"cannot resume: .*kept/checkpoint-2 was written with the reference .*actor"),
    ):
        train(folder, 1, other_reference={**resumed, "reference_server": address})


def test_roles_have_layouts_of_their_own(folder):
    """Two ranks with rows of their own for the policy, a critic split over two others."""
    critic = {"ranks": [0, 3], "tensor_parallel_degree": 2}
    roles = {"policy": [1, 2], "critic": critic, "reference": [0], "reward": "critic"}
    half = {"gradient_accumulation_steps": 2, "per_device_prompt_batch_size": 2}
    train(folder, 4, wide_apart={**half, "placement": roles})
    assert runs.largest_difference(runs.weights(folder / "wide"), runs.weights(folder / "wide_apart")) < 1e-5
    for expected, found in zip(metrics(folder / "wide"), metrics(folder / "wide_apart"), strict=True):
        for key in ("policy/loss", "critic/loss", "ptx/loss", "train/reward"):
            assert found[key] == pytest.approx(expected[key], abs=1e-5), (found["step"], key)


def test_a_placement_that_does_not_fit_the_processes_is_one_message(folder):
    idle = {"policy": [0], "critic": [0], "reference": [0], "reward": [2]}
    with pytest.raises(UserError, match=r"placement leaves rank 1 of 3 without a role: give it one, or launch 2 proc"):
        train(folder, 3, idle={"placement": idle})
    assert not (folder / "idle").exists()


def test_a_failure_in_the_ranks_of_a_role_is_raised_in_all():
    found = run_ranks("tests.distributed.ranks_roles:share", world_size=3, timeout=120)
    results = ["policy of rank 0", "critic of rank 1", "reward of rank 1"]
    for rank, part in enumerate(found):
        assert part["results"] == results
        assert part["asked"] == (["policy"] if rank == 0 else ["critic", "reward"])
        assert part["failure"] == ("its values are NaN", "critic", False)
    assert found[0]["groups"] is None
    assert found[2]["groups"] == {"world": (1, 2), "tensor": (1, 2), "batch": (2,)}
    assert found[1]["groups"]["batch"] == (1,)
