"""Degrees of the arguments to a layout, and what is said of those that do not fit."""

from __future__ import annotations

import pytest

from alignment.arguments.keys.parallel import ParallelArguments
from alignment.errors import ArgumentError
from alignment.runs.degrees import resolve_layout


@pytest.mark.parametrize(
    ("given", "world_size", "expected"),
    [
        ({}, 1, "one process"),
        ({"tensor_parallel_degree": 2, "sharding": ("stage3",)}, 1, "one process"),
        ({}, 2, "DP2"),
        ({"tensor_parallel_degree": 2}, 4, "TP2xDP2"),
        ({"sharding": ("stage2",)}, 4, "Sh4 stage2"),
        ({"sharding": ("stage1", "stage2"), "sharding_parallel_degree": 2}, 4, "Sh2xDP2 stage2"),
        ({"sharding_parallel_degree": 4}, 4, "DP4"),
        (
            {
                "tensor_parallel_degree": 2,
                "pipeline_parallel_degree": 2,
                "sharding": ("stage1",),
                "sharding_parallel_degree": 2,
            },
            8,
            "TP2xPP2xSh2 stage1",
        ),
    ],
)
def test_degrees_and_processes_give_a_layout(given, world_size, expected):
    layout = resolve_layout(ParallelArguments(**given), world_size=world_size)
    assert str(layout) == expected
    assert layout.world_size == world_size


@pytest.mark.parametrize(
    ("given", "world_size", "told"),
    [
        ({"tensor_parallel_degree": 3}, 4, ("--nproc_per_node 3", "1, 2, 4")),
        ({"tensor_parallel_degree": 2, "pipeline_parallel_degree": 4}, 4, ("--nproc_per_node 8", "multiple of 8")),
        ({"sharding": ("stage1",), "sharding_parallel_degree": 3}, 4, ("allowed: 1, 2, 4",)),
        (
            {"tensor_parallel_degree": 4, "expert_parallel_degree": 3},
            4,
            ("expert_parallel_degree=3 does not divide tensor_parallel_degree=4", "allowed: 1, 2, 4"),
        ),
        ({"virtual_pp_degree": 2}, 4, ("pipeline_parallel_degree of 2 or more",)),
    ],
)
def test_degrees_that_do_not_fit_are_refused_with_those_that_do(given, world_size, told):
    with pytest.raises(ArgumentError) as error:
        resolve_layout(ParallelArguments(**given), world_size=world_size)
    assert all(part in str(error.value) for part in told), error.value
