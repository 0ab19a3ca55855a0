"""Parse typed arguments from a flat JSON or YAML file plus ``--key value``, reporting all problems at once."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from alignment.arguments.coerce import coerce
from alignment.arguments.files import read_file
from alignment.arguments.groups import DeclaredArgument, Groups, choosing_keys, declare, name_owners, resolve
from alignment.arguments.help import HELP_FLAGS, show_help
from alignment.arguments.parsed import Parsed, is_given, is_of_preset
from alignment.arguments.paths import RESOLVERS, AbsentPathError
from alignment.arguments.peers import presets
from alignment.arguments.peers.advice import advise
from alignment.arguments.roles import openrlhf
from alignment.arguments.sources import BARE, Given, NestedKeys, Source, read_call, read_command_line, read_section
from alignment.arguments.translations import TRANSLATIONS, translate
from alignment.errors import ArgumentError
from alignment.fields import Constraint
from alignment.registry import near_matches


class Unusable(Exception):
    """Raised if a check reads a value that is missing, invalid or of another choice; the check is skipped."""


class Values:
    """All values of a run by key, for checks across groups; reading an invalid one raises ``Unusable``."""

    def __init__(self, values: Mapping[str, Any], origins: Mapping[str, str], others: Collection[str] = ()) -> None:
        """``others`` are keys that only other runs of the same trainer have."""
        self._values = values
        self._origins = origins
        self._others = others

    def __getattr__(self, key: str) -> Any:
        assert key in self._origins or key in self._others, f"no argument {key!r}"
        if key not in self._values:
            raise Unusable(key)
        return self._values[key]

    def get(self, key: str, default: Any) -> Any:
        """Return the value of ``key``, or ``default`` if this run has no such key."""
        return getattr(self, key) if key in self._origins else default

    def given(self, key: str) -> bool:
        """Tell whether the user gave the key."""
        return is_given(self._origins.get(key, "default"))

    def preset_note(self, *keys: str) -> str:
        """Return the end of a message that tells which of ``keys`` have their value from the preset; empty: none."""
        found = [f"{key}={self._values[key]}" for key in keys if is_of_preset(self._origins.get(key, "default"))]
        return f" (preset={self.preset} set {', '.join(found)})" if found else ""


Check = Callable[[Values], Iterable[str]]
Written = Sequence[str] | Mapping[str, Any] | NestedKeys | Parsed
"""What the user wrote: ``[file.json | file.yaml] [--key value ...]``, keys and values of a Python call, or an object
within a file; or what was made of it before.
"""


def parse_arguments(
    groups: Groups, written: Written, *, checks: Sequence[Check] = (), absent: list[str] | None = None
) -> Parsed:
    """Parse ``written`` into one frozen instance per group, unless it is parsed; the command line wins over the file.

    A ``Choice`` contributes the group added by its key's value; keys of its other groups are refused by name.
    ``checks`` look at combinations of values and yield one message per problem; a check that reads a key of another
    choice is skipped. Paths that do not exist are added to ``absent`` and kept as written; None: they are problems, as
    in a run. Raises one ArgumentError with all problems: unknown, repeated, missing, mistyped and out-of-range
    keys, refused values, and missing paths. ``--help`` lists the keys, ``--help KEY`` explains one; both exit.
    """
    if isinstance(written, Parsed):
        return written
    if not isinstance(written, (Mapping, NestedKeys)) and not HELP_FLAGS.isdisjoint(written):
        show_help(groups, written)
    sources, base_dir = _read_sources(written)
    problems = [problem for source in sources for problem in source.problems]
    table = _Table(groups, sources)
    slots = table.slots
    if "placement" in table.names:
        sources = openrlhf.join(sources, problems)
    chosen = _choose(sources, table, problems)
    values = {slot.name: slot.default for slot in slots.values() if not slot.is_required}
    for name, given in chosen.items():
        _read_value(given, slots[name], values, base_dir=base_dir, problems=problems, absent=absent)
    by_preset = _apply_preset(values, chosen, problems)
    missing = [s.name for s in slots.values() if s.is_required and s.name not in chosen]
    problems += [f"missing required argument {name!r}" for name in missing]
    origins = {s.name: chosen[s.name].origin if s.name in chosen else "default" for s in slots.values()} | by_preset
    problems += _run_checks(checks, Values(values, origins, table.others))
    if problems:
        raise ArgumentError("\n  ".join([f"{len(problems)} invalid argument(s):", *problems]))
    return _build(resolve(groups, table.choices), values, origins=origins, base_dir=base_dir)


def _apply_preset(values: dict[str, Any], chosen: Mapping[str, Given], problems: list[str]) -> dict[str, str]:
    """Put the values of ``preset`` into ``values`` where the user gave none; return their origins by key."""
    preset, algorithm = values.get("preset"), values.get("rl_algorithm")
    if preset is None or algorithm is None:
        return {}
    given = {key: values[key] for key in chosen if key in values}
    problems += presets.find_problems(preset, algorithm, given)
    found = presets.choose(preset, algorithm, {**dict.fromkeys(chosen), **given})
    values.update(found)
    return dict.fromkeys(found, f"preset {preset}")


def _read_sources(written: Written) -> tuple[list[Source], Path]:
    """Return the sources, in increasing priority, and the folder in which paths of a file are looked up first."""
    if isinstance(written, NestedKeys):
        return [read_section(written)], written.base_dir
    if isinstance(written, Mapping):
        return [read_call(written)], Path.cwd()
    tokens = list(written)
    path = Path(tokens.pop(0)) if tokens and not tokens[0].startswith("-") else None
    sources = [read_file(path) if path else Source([], []), read_command_line(tokens)]
    return sources, path.absolute().parent if path else Path.cwd()


class _Table:
    """The arguments of this run, and those that other choices would add."""

    def __init__(self, groups: Groups, sources: Sequence[Source]) -> None:
        declared = declare(groups)
        self.choices: dict[str, str | None] = {}
        """Value of each choosing key; None if it is missing or invalid."""
        for key in choosing_keys(groups):
            slot = next(s for s in declared if s.name == key)
            self.choices[key] = _read_choice(slot, sources)
        owners = [f"{key}={value}" for key, value in self.choices.items()]
        self.slots = {slot.name: slot for slot in declared if slot.is_in(owners)}
        """Argument names to arguments."""
        self.names = {name: slot.name for slot in self.slots.values() for name in slot.names}
        """Argument names and aliases to argument names."""
        self.others: dict[str, list[DeclaredArgument]] = {}
        """Names and aliases that only other choices have to their arguments."""
        self._advice = {k: text for slot in self.slots.values() for k, text in (slot.constraint.advice or {}).items()}
        for slot in declared:
            for name in set(slot.names).difference(self.names):
                self.others.setdefault(name, []).append(slot)

    def describe_stranger(self, given: Given) -> str | None:
        """Return the message for a key that this run does not have; None if an invalid choice is reported instead."""
        slots = self.others.get(given.key)
        if slots is None:
            known = {*self.names, *self.others}
            advice = self._advice.get(given.key) or advise(given.key, given.value, known)
            hint = f": {advice}" if advice else near_matches(given.key, self.names)
            return f"unknown argument {given.key!r} ({given.place}){hint}"
        owners = [owner for slot in slots for owner in slot.owners]
        key = owners[0].partition("=")[0]
        if self.choices[key] is None:
            return None
        advice = self._advice.get(given.key)
        hint = f": {advice}" if advice else ""
        belongs = f"{given.key} belongs to {name_owners(owners)}; this run has {key}={self.choices[key]}"
        return f"{belongs} ({given.place}){hint}"


def _read_choice(slot: DeclaredArgument, sources: Sequence[Source]) -> str | None:
    """Return the value of a choosing key; None if it is missing or invalid (reported when values are read)."""
    given = [item for source in sources for item in source.given if item.key in slot.names]
    try:
        value = _coerce_given(given[-1], slot) if given else slot.default
    except ValueError:
        return None
    return None if value is dataclasses.MISSING else value


def _choose(sources: Sequence[Source], table: _Table, problems: list[str]) -> dict[str, Given]:
    """Resolve aliases and report unknown keys and those of other choices; later sources win."""
    chosen: dict[str, Given] = {}
    for source in sources:
        seen: dict[str, Given] = {}
        for given in _translated(source.given, table.names, problems):
            name = table.names.get(given.key)
            if name is None:
                problems += filter(None, [table.describe_stranger(given)])
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


def _translated(given: Iterable[Given], names: Collection[str], problems: list[str]) -> Iterator[Given]:
    """Yield the given keys, translating those of other suites; an alias that is translated to strangers stays."""
    for item in given:
        try:
            found = list(translate(item)) if item.key in TRANSLATIONS else [item]
            yield from [item] if item.key in names and any(other.key not in names for other in found) else found
        except ValueError as error:
            problems.append(f"{item.key}: {error} ({item.place})")


def _read_value(
    given: Given,
    slot: DeclaredArgument,
    values: dict[str, Any],
    *,
    base_dir: Path,
    problems: list[str],
    absent: list[str] | None,
) -> None:
    """Put the converted value into ``values``; remove an invalid one, so that no check reads it."""
    value: Any = None
    try:
        value = _coerce_given(given, slot)
        values[slot.name] = _resolve_paths(value, slot.constraint, given, base_dir)
    except ValueError as error:
        is_known = absent is not None and isinstance(error, AbsentPathError)
        values.pop(slot.name, None)
        (absent if is_known else problems).append(f"{given.key}: {error} ({given.place})")
        if is_known:
            values[slot.name] = value


def _coerce_given(given: Given, slot: DeclaredArgument) -> Any:
    if given.value is BARE:
        if bool not in (slot.hint, *typing.get_args(slot.hint)):
            raise ValueError("has no value; write --key value")
        return _refuse(True, slot)
    return _refuse(coerce(given.value, slot.hint, slot.constraint), slot)


def _refuse(value: Any, slot: DeclaredArgument) -> Any:
    if slot.constraint.refusal and value != slot.default:
        raise ValueError(f"{value!r} is refused: {slot.constraint.refusal}")
    return value


def _resolve_paths(value: Any, constraint: Constraint, given: Given, base_dir: Path) -> Any:
    """Resolve paths: those in a file relative to it first, those on the command line to the current folder first."""
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
