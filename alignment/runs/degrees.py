"""Resolve the parallel degrees for a number of processes, or explain why they do not fit."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from alignment.architecture.layout import ONE_PROCESS, Layout
from alignment.arguments.keys.parallel import ParallelArguments
from alignment.arguments.parsed import Parsed
from alignment.arguments.roles.placement import ROLLOUT, check_ranks, describe_ranks, read_placement
from alignment.errors import ArgumentError


def resolve_layout(arguments: ParallelArguments, *, world_size: int) -> Layout:
    """Return the layout of ``world_size`` processes; degrees whose product does not fit are an ArgumentError.

    With one process every degree is 1, and the start of the run names the keys without effect. The processes that
    tensor and pipeline parallelism leave go to sharding if ``sharding`` names a stage (``sharding_parallel_degree`` of
    them, or all), and the rest to data parallelism.
    """
    if world_size == 1:
        return ONE_PROCESS
    tensor, pipeline = (max(1, degree) for degree in (arguments.tensor_parallel_degree, arguments.pipeline_degree))
    rest, left_over = divmod(world_size, tensor * pipeline)
    if left_over or not rest:
        raise ArgumentError(
            f"{world_size} process(es) cannot be arranged as tensor_parallel_degree={tensor} x "
            f"pipeline_parallel_degree={pipeline}: launch a multiple of {tensor * pipeline} processes "
            f"(--nproc_per_node {_nearest_multiple(world_size, tensor * pipeline)}), or choose degrees whose product "
            f"divides {world_size} ({', '.join(map(str, _divisors(world_size)))})"
        )
    stage = arguments.sharding_stage
    given = arguments.sharding_parallel_degree
    sharding = 1 if stage == 0 else rest if given < 1 else given
    if rest % sharding:
        raise ArgumentError(
            f"sharding_parallel_degree={sharding} does not divide the {rest} process(es) that tensor and pipeline "
            f"parallelism leave of {world_size} (allowed: {', '.join(map(str, _divisors(rest)))}, or -1 for all of "
            "them)"
        )
    if arguments.virtual_pp_degree > 1 and pipeline == 1:
        raise ArgumentError(
            f"virtual_pp_degree={arguments.virtual_pp_degree} divides the stages of a pipeline, but "
            "pipeline_parallel_degree is 1; set virtual_pp_degree=1 or a pipeline_parallel_degree of 2 or more"
        )
    expert = max(1, arguments.expert_parallel_degree)
    if tensor > 1 and tensor % expert:
        raise ArgumentError(
            f"expert_parallel_degree={expert} does not divide tensor_parallel_degree={tensor}, whose processes hold "
            f"the experts (allowed: {', '.join(map(str, _divisors(tensor)))}, or -1 for 1)"
        )
    return Layout(
        tensor=tensor,
        pipeline=pipeline,
        sharding=sharding,
        data=rest // sharding,
        sharding_stage=stage if sharding > 1 else 0,
        sequence_parallel=arguments.sequence_parallel and tensor > 1,
        virtual_stages=arguments.virtual_pp_degree,
        expert=expert if tensor > 1 else 1,
    )


def resolve_roles(parsed: Parsed, *, world_size: int) -> dict[str, tuple[tuple[int, ...], Layout]]:
    """Return the ranks of each role and their layout by ``placement``; empty if every rank has a share of every model.

    A role on one rank is whole there; on several it is divided by its own degrees, else by those of the run.
    ArgumentError if the ranks are not those of ``world_size`` processes, or if degrees do not fit a role's ranks.
    """
    if "placement" not in parsed.groups or parsed.placement.placement is None:
        return {}
    shares = read_placement(parsed.placement.placement)
    check_ranks(shares, world_size)
    for role in (ROLLOUT, "reference") if parsed.adapter.lora else (ROLLOUT,):
        shares.setdefault(role, shares["policy"])
    roles = {}
    for role, share in shares.items():
        degrees = dataclasses.replace(parsed.parallel, **share.degrees)
        try:
            roles[role] = share.ranks, resolve_layout(degrees, world_size=len(share.ranks))
        except ArgumentError as error:
            raise ArgumentError(f"placement: {role} on {describe_ranks(share.ranks)}: {error}") from None
    return roles


def describe_roles(roles: Mapping[str, tuple[tuple[int, ...], Layout]]) -> str:
    """Return which rank holds what, such as ``policy, rollout on rank 0; critic on ranks 1, 2 (TP2)``."""
    groups: dict[tuple[tuple[int, ...], Layout], list[str]] = {}
    for role, seat in roles.items():
        groups.setdefault(seat, []).append(role)
    return "; ".join(
        f"{', '.join(names)} on {describe_ranks(ranks)}" + (f" ({layout})" if len(ranks) > 1 else "")
        for (ranks, layout), names in groups.items()
    )


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]


def _nearest_multiple(world_size: int, product: int) -> int:
    return max(product, round(world_size / product) * product)
