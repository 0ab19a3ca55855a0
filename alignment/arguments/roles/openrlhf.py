"""Translate OpenRLHF's keys of placement (``actor_num_nodes``, ``colocate_actor_ref``, ...) to ``placement``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from alignment.arguments.coerce import coerce
from alignment.arguments.sources import BARE, Given
from alignment.fields import Constraint

_ROLES = MappingProxyType({"actor": "policy", "ref": "reference", "critic": "critic", "reward": "reward"})
_NODES, _DEVICES = "_num_nodes", "_num_gpus_per_node"
_COLOCATED = MappingProxyType(
    {"colocate_actor_ref": ("reference", "policy"), "colocate_critic_reward": ("reward", "critic")}
)
_ALL = "colocate_all_models"
_ENGINES, _ENGINE_RANKS = "vllm_num_engines", "vllm_tensor_parallel_size"
KEYS = frozenset({*(f"{role}{end}" for role in _ROLES for end in (_NODES, _DEVICES)), *_COLOCATED, _ALL, _ENGINES})
KEYS |= {_ENGINE_RANKS}
"""OpenRLHF's keys, which together are one ``placement``."""


def translate_placement(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the placement that OpenRLHF's keys ``given`` describe; empty if they ask for nothing.

    A role has nodes * devices ranks (OpenRLHF's defaults: 1 and 8), in the order policy, reference, critic, reward,
    engines. ValueError names a value that has no meaning.
    """
    placement: dict[str, Any] = {}
    for word, role in _ROLES.items():
        if f"{word}{_NODES}" in given or f"{word}{_DEVICES}" in given:
            placement[role] = _number(given, f"{word}{_NODES}", 1) * _number(given, f"{word}{_DEVICES}", 8)
    for key, (role, host) in _COLOCATED.items():
        if _flag(given, key):
            placement[role] = host
    if engines := _number(given, _ENGINES, 0, least=0):
        size = _number(given, _ENGINE_RANKS, 1)
        ranks = engines * size
        placement["rollout"] = ranks if size == 1 else {"ranks": ranks, "tensor_parallel_degree": size}
    if _flag(given, _ALL):
        placement = {role: value if role == "policy" else "policy" for role, value in placement.items()}
    if placement and "policy" not in placement:
        raise ValueError(f"{', '.join(sorted(given))}: give actor_num_nodes and actor_num_gpus_per_node too")
    return placement


def join(given: Sequence[Given]) -> list[Given]:
    """Return ``placement`` as OpenRLHF's keys of one source give it; see ``translate_placement``."""
    found = translate_placement({item.key: item.value for item in given})
    names = ", ".join(item.key for item in given)
    return [Given("placement", found, given[0].origin, f"{given[0].place}, {names}")] if found else []


def _number(given: Mapping[str, Any], key: str, default: int, *, least: int = 1) -> int:
    try:
        return coerce(given.get(key, default), int, Constraint(minimum=least))
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None


def _flag(given: Mapping[str, Any], key: str) -> bool:
    value = given.get(key, False)
    try:
        return value is BARE or coerce(value, bool, Constraint())
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None
