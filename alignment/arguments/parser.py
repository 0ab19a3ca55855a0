"""Typed arguments from one flat JSON or YAML file plus ``--key value``; every problem is reported at once."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from alignment.arguments.coerce import coerce
from alignment.arguments.fields import Constraint, constraint_of
from alignment.arguments.files import read_file
from alignment.arguments.foreign_keys import ADVICE
from alignment.arguments.help import HELP_FLAGS, show_help
from alignment.arguments.parsed import Parsed
from alignment.arguments.paths import RESOLVERS
from alignment.arguments.sources import BARE, Given, Source, read_command_line
from alignment.arguments.translations import TRANSLATIONS, translate
from alignment.errors import ArgumentError
from alignment.registry import near_matches


class Unusable(Exception):
    """A check read a value that is missing or wrong itself; the check is left out."""


class Values:
    """All values of a run by key, for checks across groups; reading a wrong one raises ``Unusable``."""

    def __init__(self, values: Mapping[str, Any], origins: Mapping[str, str]) -> None:
        self._values = values
        self._origins = origins

    def __getattr__(self, key: str) -> Any:
        assert key in self._origins, f"no argument {key!r}"
        if key not in self._values:
            raise Unusable(key)
        return self._values[key]

    def given(self, key: str) -> bool:
        """Return whether the user wrote the key."""
        return self._origins.get(key, "default") != "default"


Check = Callable[[Values], Iterable[str]]


class _Slot(NamedTuple):
    """One declared argument."""

    group: str
    name: str
    hint: Any
    default: Any
    constraint: Constraint

    @property
    def is_required(self) -> bool:
        return self.default is dataclasses.MISSING


def parse_arguments(groups: Mapping[str, type], argv: Sequence[str], *, checks: Sequence[Check] = ()) -> Parsed:
    """Return one frozen instance a group from ``[file.json | file.yaml] [--key value ...]``; the command line wins.

    ``checks`` look at values together and yield one message a problem. Raises one ArgumentError with all problems:
    unknown, repeated, missing, mistyped and out-of-range keys, refused values, paths that do not exist.
    ``--help`` lists the keys of the groups, ``--help KEY`` explains one; both exit.
    """
    if not HELP_FLAGS.isdisjoint(argv):
        show_help(groups, argv)
    slots = _declare(groups)
    tokens = list(argv)
    path = Path(tokens.pop(0)) if tokens and not tokens[0].startswith("-") else None
    sources = [read_file(path) if path else Source([], []), read_command_line(tokens)]
    base_dir = path.absolute().parent if path else Path.cwd()
    problems = [problem for source in sources for problem in source.problems]
    chosen = _choose(sources, slots, problems)
    values = {slot.name: slot.default for slot in slots.values() if not slot.is_required}
    for name, given in chosen.items():
        _read_value(given, slots[name], values, base_dir=base_dir, problems=problems)
    missing = [s.name for s in slots.values() if s.is_required and s.name not in chosen]
    problems += [f"missing required argument {name!r}" for name in missing]
    origins = {s.name: chosen[s.name].origin if s.name in chosen else "default" for s in slots.values()}
    problems += _run_checks(checks, Values(values, origins))
    if problems:
        raise ArgumentError("\n  ".join([f"{len(problems)} invalid argument(s):", *problems]))
    return _build(groups, values, origins=origins, base_dir=base_dir)


def _declare(groups: Mapping[str, type]) -> dict[str, _Slot]:
    """Return canonical names to slots; two groups with one key, or a taken alias, are a programmer's mistake."""
    slots: dict[str, _Slot] = {}
    for group, cls in groups.items():
        hints = typing.get_type_hints(cls)
        for item in dataclasses.fields(cls):
            assert item.name not in slots, f"argument {item.name!r} belongs to two groups"
            slots[item.name] = _Slot(group, item.name, hints[item.name], item.default, constraint_of(item))
    names = [name for slot in slots.values() for name in (slot.name, *slot.constraint.aliases)]
    assert len(names) == len(set(names)), (
        f"argument names used twice: {sorted({n for n in names if names.count(n) > 1})}"
    )
    return slots


def _choose(sources: Sequence[Source], slots: Mapping[str, _Slot], problems: list[str]) -> dict[str, Given]:
    """Resolve aliases, report unknown keys, and let the later source win."""
    names = {name: slot.name for slot in slots.values() for name in (slot.name, *slot.constraint.aliases)}
    chosen: dict[str, Given] = {}
    for source in sources:
        seen: dict[str, Given] = {}
        for given in _translated(source.given, problems):
            name = names.get(given.key)
            if name is None:
                problems.append(_describe_unknown(given, names))
                continue
            other = seen.get(name)
            if other is not None and other.value != given.value:
                problems.append(
                    f"{other.key} and {given.key} are two names of one argument with different values: "
                    f"{other.value!r} and {given.value!r} ({given.place})"
                )
            seen[name] = given
        chosen.update(seen)
    return chosen


def _translated(given: Iterable[Given], problems: list[str]) -> Iterator[Given]:
    """Yield what was written, keys of other suites as the keys of this one that they stand for."""
    for item in given:
        try:
            yield from translate(item) if item.key in TRANSLATIONS else (item,)
        except ValueError as error:
            problems.append(f"{item.key}: {error} ({item.place})")


def _describe_unknown(given: Given, names: Iterable[str]) -> str:
    advice = ADVICE.get(given.key)
    hint = f": {advice}" if advice else near_matches(given.key, names)
    return f"unknown argument {given.key!r} ({given.place}){hint}"


def _read_value(given: Given, slot: _Slot, values: dict[str, Any], *, base_dir: Path, problems: list[str]) -> None:
    """Put the typed value into ``values``; a wrong one is taken out, so that no check reads it."""
    try:
        value = _coerce_given(given, slot)
        values[slot.name] = _resolve_paths(value, slot.constraint, given, base_dir)
    except ValueError as error:
        values.pop(slot.name, None)
        problems.append(f"{given.key}: {error} ({given.place})")


def _coerce_given(given: Given, slot: _Slot) -> Any:
    if given.value is BARE:
        if bool not in (slot.hint, *typing.get_args(slot.hint)):
            raise ValueError("has no value; write --key value")
        return _refuse(True, slot)
    return _refuse(coerce(given.value, slot.hint, slot.constraint), slot)


def _refuse(value: Any, slot: _Slot) -> Any:
    if slot.constraint.refusal and value != slot.default:
        raise ValueError(f"{value!r} is refused: {slot.constraint.refusal}")
    return value


def _resolve_paths(value: Any, constraint: Constraint, given: Given, base_dir: Path) -> Any:
    """Paths of a file are looked for beside it first, those of the command line in the current folder first."""
    if constraint.path is None or not isinstance(value, (str, tuple)):
        return value
    folders = (base_dir, Path.cwd()) if given.origin == "file" else (Path.cwd(), base_dir)
    resolve = RESOLVERS[constraint.path]
    return resolve(value, folders) if isinstance(value, str) else tuple(resolve(item, folders) for item in value)


def _run_checks(checks: Iterable[Check], values: Values) -> list[str]:
    problems: list[str] = []
    for check in checks:
        try:
            problems += check(values)
        except Unusable:
            continue
    return problems


def _build(
    groups: Mapping[str, type], values: Mapping[str, Any], *, origins: Mapping[str, str], base_dir: Path
) -> Parsed:
    instances = {
        group: cls(**{item.name: values[item.name] for item in dataclasses.fields(cls)})
        for group, cls in groups.items()
    }
    return Parsed(groups=instances, origins=origins, base_dir=base_dir)
