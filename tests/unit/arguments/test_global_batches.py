"""Batch sizes over all processes become those of one."""

from __future__ import annotations

import itertools

import pytest

from alignment.arguments.global_batches import share_global_batches
from alignment.errors import ArgumentError
from alignment.runs.on_policy.prompts import RowPlan
from alignment.trainers.ppo.arguments import parse_ppo_arguments

ARGV = ["--train_datasets", "p", "--actor_model_name_or_path", "a", "--reward_model_name_or_path", "r"]
ARGV += ["--output_dir", "o", "--per_device_train_batch_size", "2"]


def _share(*given, batch_ranks):
    return share_global_batches(parse_ppo_arguments([*ARGV, *given]), batch_ranks=batch_ranks)


@pytest.mark.parametrize("batch_ranks", [1, 2, 4])
def test_rows_of_an_iteration_and_an_update_do_not_depend_on_the_number_of_processes(batch_ranks):
    parsed = _share("--global_batch_size", "256", "--global_mini_batch_size", "64", "--rollout_n", "4",
                    batch_ranks=batch_ranks)  # fmt: skip
    plan = RowPlan.of(parsed, batch_ranks=batch_ranks)
    assert (plan.prompts_per_iteration, plan.rows_per_update) == (256, 256)
    assert parsed.on_policy.per_device_prompt_batch_size == 256 // batch_ranks
    assert parsed.training.gradient_accumulation_steps == 64 * 4 // (2 * batch_ranks)
    assert parsed.origins["gradient_accumulation_steps"] == "derived"


def test_without_them_nothing_changes():
    parsed = parse_ppo_arguments(ARGV)
    assert share_global_batches(parsed, batch_ranks=4).as_dict() == parsed.as_dict()


@pytest.mark.parametrize(
    ("given", "batch_ranks"),
    [
        ({"--global_mini_batch_size": "12", "--preset": "recommended"}, 1),
        ({"--global_batch_size": "6", "--global_mini_batch_size": "4", "--rollout_n": "4"}, 1),
        ({"--global_batch_size": "20", "--rollout_n": "3", "--gradient_accumulation_steps": "8"}, 2),
        ({"--global_batch_size": "300", "--global_mini_batch_size": "76"}, 2),
        ({"--global_batch_size": "7", "--gradient_accumulation_steps": "5"}, 1),
    ],
)
def test_values_that_are_said_to_work_do(given, batch_ranks):
    """They are named by the keys that count all processes, as those that were given do."""
    with pytest.raises(ArgumentError, match="neither divides the other") as caught:
        _share(*itertools.chain(*given.items()), batch_ranks=batch_ranks)
    listed = str(caught.value).partition("Values that work: ")[2].partition(" (preset")[0]
    advice = dict(part.split("=") for part in listed.split("; "))
    assert advice.keys() == {"global_batch_size", "global_mini_batch_size"}
    for key, values in advice.items():
        for value in values.split(" or "):
            other = given | {f"--{key}": value}
            parsed = _share(*itertools.chain(*other.items()), batch_ranks=batch_ranks)
            plan = RowPlan.of(parsed, batch_ranks=batch_ranks)
            rollout = plan.prompts_per_iteration * parsed.on_policy.num_return_sequences
            assert not rollout % plan.rows_per_update or not plan.rows_per_update % rollout


@pytest.mark.parametrize(
    ("given", "batch_ranks", "says"),
    [
        (["--global_batch_size", "10"], 4, "global_batch_size=10 cannot be shared evenly among 4 process"),
        (
            ["--global_mini_batch_size", "3"],
            2,
            "3 \\* 1 cannot be shared evenly .*: give a global_mini_batch_size that is a multiple of 4",
        ),
        (
            ["--global_mini_batch_size", "3", "--rollout_n", "6"],
            4,
            "3 \\* 6 cannot be .*: give a global_mini_batch_size that is a multiple of 4",
        ),
        (["--global_batch_size", "6", "--global_mini_batch_size", "4"], 1, "neither divides the other"),
    ],
)
def test_what_does_not_divide_is_told(given, batch_ranks, says):
    with pytest.raises(ArgumentError, match=says):
        _share(*given, batch_ranks=batch_ranks)
