"""Read ``placement``: the ranks of each role of an on-policy run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

from alignment.errors import ArgumentError
from alignment.fields import argument
from alignment.registry import near_matches

ROLES = ("policy", "critic", "reference", "reward", "cost", "cost_critic", "rollout")
"""The roles of on-policy runs, in the order of messages; reward stands for all reward models and second judges."""
ROLLOUT = "rollout"
"""The role of the engine; it is optional, and by default on the policy's ranks."""
DEGREES = ("tensor_parallel_degree", "pipeline_parallel_degree")
"""The degrees that a role may have of its own."""
MOST_RANKS = 2**20
_WORDS_OF_OTHERS = MappingProxyType(
    {"actor": "policy", "ref": "reference", "value": "critic", "rm": "reward", "vllm": ROLLOUT, "engine": ROLLOUT}
)
"""What other suites call a role."""
EXAMPLE = '{"policy": [0], "critic": [1], "reference": [2], "reward": [2]}'


@dataclass(frozen=True, kw_only=True)
class PlacementArguments:
    """Ranks of their own for the roles of a run."""

    placement: str | None = argument(None, is_object=True)
    """The ranks of each role: {"policy": [0], "critic": [1], "reference": [2], "reward": [2]}. A role has a list of
    ranks, or a number of them (the next free ones), or the name of the role whose ranks it shares; if only policy (and
    rollout) is named, it is that of all models; see docs/how-to/placement.md. null: every rank has its share of every
    model. OpenRLHF's keys (actor_num_nodes, colocate_actor_ref, ...) are understood.
    """


class Share(NamedTuple):
    """The ranks of a role, and the degrees that it has of its own."""

    ranks: tuple[int, ...]
    degrees: Mapping[str, int] = {}


def read_placement(text: str) -> dict[str, Share]:
    """Return the ranks of each role that ``text``, a JSON object, names; ArgumentError says what is wrong with it."""
    try:
        written = json.loads(text, object_pairs_hook=_once)
    except ArgumentError:
        raise
    except ValueError:
        written = None
    if not isinstance(written, dict) or not written:
        raise ArgumentError(f"placement={text!r} is not an object of roles and ranks, such as {EXAMPLE}")
    shares: dict[str, Share] = {}
    used: set[int] = set()
    for role, value in written.items():
        if not isinstance(value, str):
            shares[role] = _read_share(role, value, used)
            used.update(shares[role].ranks)
    for role, value in written.items():
        if isinstance(value, str):
            if value not in shares or isinstance(written[value], str):
                have = ", ".join(name for name in written if not isinstance(written[name], str))
                raise ArgumentError(
                    f"placement: {role} shares the ranks of {value!r}, which has no ranks of its own (those that have: "
                    f"{have or 'none'})"
                )
            shares[role] = shares[value]
    return {role: shares[role] for role in written}


def find_role_faults(
    shares: Mapping[str, Share], needed: Sequence[str], absent: Mapping[str, str], named: Sequence[str]
) -> Iterator[str]:
    """Yield what is wrong with the roles of ``shares``.

    ``needed`` are those that the run has, ``absent`` says why it lacks the others, ``named`` are its score models that
    may have ranks of their own.
    """
    known = (*ROLES, *named)
    for role in shares:
        if role in absent:
            yield f"placement: {role} has ranks, but {absent[role]}: leave {role} out"
        elif role not in known:
            allowed = [name for name in known if name not in absent]
            meant = _WORDS_OF_OTHERS.get(role)
            hint = f"; it is called {meant} here" if meant in allowed else near_matches(role, allowed)
            yield f"placement: no role {role!r} (allowed: {', '.join(allowed)}){hint}"
    missing = [role for role in needed if role not in shares]
    if missing:
        example = '{"policy": [0]}' if missing[0] == "policy" else f'{{"{missing[0]}": "policy"}}'
        yield (
            f"placement: {', '.join(missing)} {'has' if len(missing) == 1 else 'have'} no ranks; give a list of ranks "
            f"or the name of the role to share them with, such as {example}"
        )


def check_ranks(shares: Mapping[str, Share], world_size: int) -> None:
    """Raise ArgumentError if ``world_size`` processes are not exactly the ranks that the roles name."""
    highest = max(rank for share in shares.values() for rank in share.ranks)
    if highest >= world_size:
        roles = ", ".join(role for role, share in shares.items() if highest in share.ranks)
        raise ArgumentError(
            f"placement: {roles} on rank {highest}, but the run has {world_size} process(es), ranks 0 to "
            f"{world_size - 1}: launch {highest + 1} (--nproc_per_node {highest + 1}), or name other ranks"
        )
    used = {rank for share in shares.values() for rank in share.ranks}
    idle = [str(rank) for rank in range(world_size) if rank not in used]
    if idle:
        raise ArgumentError(
            f"placement leaves rank {', '.join(idle)} of {world_size} without a role: give it one, or launch "
            f"{len(used)} process(es)"
        )


def describe_ranks(ranks: Sequence[int]) -> str:
    """Return ``rank 1`` or ``ranks 1, 2``."""
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object of ``pairs``; of a repeated name only one would be left."""
    written = dict(pairs)
    if len(written) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ArgumentError(f"placement: {twice!r} is given more than once in one object")
    return written


def _read_share(role: str, value: Any, used: set[int]) -> Share:
    degrees: dict[str, int] = {}
    if isinstance(value, dict):
        unknown = [key for key in value if key not in ("ranks", *DEGREES)]
        if unknown or "ranks" not in value:
            raise ArgumentError(
                f"placement: {role} is an object with {', '.join(value) or 'nothing'}; it needs ranks, and may have "
                f"{' and '.join(DEGREES)}"
            )
        degrees = {key: _whole(role, key, value[key]) for key in DEGREES if key in value}
        value = value["ranks"]
    if _is_whole(value):
        count = _whole(role, "the number of ranks", value)
        if count > MOST_RANKS:
            raise ArgumentError(f"placement: {role}: the number of ranks is {count}; at most {MOST_RANKS} can be given")
        free = (rank for rank in range(len(used) + count) if rank not in used)
        return _divided(role, tuple(rank for rank, _ in zip(free, range(count), strict=False)), degrees)
    if not isinstance(value, list) or not value or not all(_is_whole(rank) and rank >= 0 for rank in value):
        raise ArgumentError(
            f"placement: {role} has {json.dumps(value)}; expected ranks from 0, such as [0, 1], a number of ranks, or "
            "the name of the role whose ranks it shares"
        )
    if len(set(value)) < len(value):
        raise ArgumentError(f"placement: {role} names a rank twice: {json.dumps(value)}")
    return _divided(role, tuple(sorted(value)), degrees)


def _divided(role: str, ranks: tuple[int, ...], degrees: Mapping[str, int]) -> Share:
    for key, degree in degrees.items() if len(ranks) == 1 else ():
        if degree > 1:
            raise ArgumentError(
                f"placement: {role}: {key} is {degree} on one rank, where the model is whole: give {degree} ranks or a "
                "multiple of them, or leave the degree out"
            )
    return Share(ranks, degrees)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _whole(role: str, what: str, value: Any) -> int:
    if not _is_whole(value) or value < 1:
        raise ArgumentError(f"placement: {role}: {what} is {json.dumps(value)}; give 1 or more")
    return value
