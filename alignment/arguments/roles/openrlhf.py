"""Translate OpenRLHF's keys of placement (``actor_num_nodes``, ``colocate_actor_ref``, ...) to ``placement``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from alignment.arguments.coerce import coerce
from alignment.arguments.sources import BARE, Given, Source
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
    engines. With colocate_all_models only the actor's count, and the engines are on its ranks. ValueError names a value
    that has no meaning.
    """
    placement: dict[str, Any] = {}
    for word, role in _ROLES.items():
        if f"{word}{_NODES}" in given or f"{word}{_DEVICES}" in given:
            placement[role] = _number(given, f"{word}{_NODES}", 1) * _number(given, f"{word}{_DEVICES}", 8)
    for key, (role, host) in _COLOCATED.items():
        if _flag(given, key):
            _check_equal(placement, key, role, host)
            placement[role] = host
    engines, size = _number(given, _ENGINES, 0, least=0), _number(given, _ENGINE_RANKS, 1)
    if engines:
        placement["rollout"] = _divided(engines * size, size)
    if placement and "policy" not in placement:
        raise ValueError(f"{', '.join(sorted(given))}: give actor_num_nodes and actor_num_gpus_per_node too")
    if not (placement and _flag(given, _ALL)):
        return placement
    for role in [role for role in _ROLES.values() if role in placement]:
        _check_equal(placement, _ALL, role, "policy")
    return _colocated(placement["policy"], engines, size)


def _check_equal(placement: Mapping[str, Any], key: str, role: str, host: str) -> None:
    """Refuse numbers of ``role`` that the flag ``key``, which puts it on the ranks of ``host``, would ignore."""
    counts = placement.get(role), placement.get(host)
    if all(isinstance(count, int) for count in counts) and counts[0] != counts[1]:
        words = {ours: word for word, ours in _ROLES.items()}
        asked, there = (f"{words[one]}_num_nodes * {words[one]}_num_gpus_per_node" for one in (role, host))
        raise ValueError(
            f"{asked} = {counts[0]} with {key}, which puts the {words[role]} on the ranks of the {words[host]} "
            f"({there} = {counts[1]}): give both the same numbers, leave out those of the {words[role]}, or leave "
            f"out {key}"
        )


def _colocated(ranks: int, engines: int, size: int) -> dict[str, Any]:
    """Return the placement of all models, and of ``engines`` of ``size`` ranks each, on the first ``ranks`` ranks."""
    if engines and engines * size != ranks:
        raise ValueError(
            f"{_ENGINES} * {_ENGINE_RANKS} = {engines} * {size} with {_ALL}: the engines have the {ranks} rank(s) of "
            f"the actor, so give numbers whose product is {ranks}"
        )
    rollout = {"rollout": _divided(list(range(ranks)), size)} if engines and size > 1 else {}
    return {"policy": ranks, **rollout}


def _divided(ranks: Any, size: int) -> Any:
    return ranks if size == 1 else {"ranks": ranks, "tensor_parallel_degree": size}


def join(sources: Sequence[Source], problems: list[str]) -> list[Source]:
    """Return ``sources`` with one ``placement`` instead of OpenRLHF's keys in any of them; see ``translate_placement``.

    It stands where the last of the keys was given, and later sources win; what has no meaning is added to ``problems``.
    """
    given = {item.key: item for source in sources for item in source.given if item.key in KEYS}
    if not given:
        return list(sources)
    rest = [Source([item for item in source.given if item.key not in KEYS], source.problems) for source in sources]
    last = max(n for n, source in enumerate(sources) if any(item.key in KEYS for item in source.given))
    places = "; ".join(dict.fromkeys(item.place for item in given.values()))
    try:
        found = translate_placement({key: item.value for key, item in given.items()})
    except ValueError as error:
        problems.append(f"{error} ({places})")
        return rest
    if found and any(item.key == "placement" for item in rest[last].given):
        problems.append(
            f"placement and {', '.join(given)} both say which ranks a model has ({places}): give one of them"
        )
    elif found:
        origin = next(item.origin for item in sources[last].given if item.key in KEYS)
        rest[last].given.append(Given("placement", found, origin, f"{places}, {', '.join(given)}"))
    return rest


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
