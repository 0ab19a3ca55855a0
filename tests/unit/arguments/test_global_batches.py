"""Batch sizes over all processes become those of one."""

from __future__ import annotations

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
    ("given", "batch_ranks", "says"),
    [
        (["--global_batch_size", "10"], 4, "global_batch_size=10 cannot be shared evenly among 4 process"),
        (["--global_mini_batch_size", "3"], 2, "3 \\* 1 cannot be shared evenly"),
        (["--global_batch_size", "6", "--global_mini_batch_size", "4"], 1, "neither divides the other"),
    ],
)
def test_what_does_not_divide_is_told(given, batch_ranks, says):
    with pytest.raises(ArgumentError, match=says):
        _share(*given, batch_ranks=batch_ranks)
