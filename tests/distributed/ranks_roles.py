"""RoleWork that only the ranks of a role do, called in every rank."""

from __future__ import annotations

from typing import Any

from alignment.architecture.layout import Layout
from alignment.errors import NotFiniteError
from alignment.parallel.initialise import initialise
from alignment.parallel.roles import RoleWork, place_roles, share_work


def share() -> dict[str, Any]:
    """Return what this rank knows of the groups of three roles, and what it gets of their work."""
    topology = initialise(device="cpu", seed=0, layout=Layout(data=3))
    both = Layout(tensor=2)
    roles = place_roles(topology, {"policy": ((0,), Layout()), "critic": ((2, 1), both), "reward": ((1, 2), both)})
    asked: list[str] = []

    def work(role: str, action=lambda: None) -> RoleWork:
        return RoleWork(roles[role], lambda: (asked.append(role), action(), f"{role} of rank {topology.rank}")[-1])

    def fail() -> None:
        raise NotFiniteError("its values are NaN", "critic", is_trained=False)

    found = {"results": share_work([work("policy"), work("critic"), work("reward")]), "asked": list(asked)}
    try:
        share_work([work("policy"), work("critic", fail), work("reward", fail)])
    except NotFiniteError as error:
        found["failure"] = (str(error), error.model, error.is_trained)
    groups = roles["critic"].topology
    found["groups"] = groups and {name: getattr(groups, name).ranks for name in ("world", "tensor", "batch")}
    return found
