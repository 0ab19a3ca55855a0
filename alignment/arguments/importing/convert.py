"""Convert the flags of a command of another suite to keys of this one, and say what became of each."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from alignment.arguments.groups import DeclaredArgument, Groups, choosing_keys, declare
from alignment.arguments.parser import Check, parse_arguments
from alignment.arguments.peers.advice import PEER_KEYS
from alignment.arguments.peers.presets import PRESETS, choose
from alignment.arguments.peers.programs.program import Flags, NoCounterpart, NoNeed, PeerStep, ReadWith
from alignment.arguments.roles import openrlhf
from alignment.arguments.sources import BARE, Given
from alignment.arguments.translations import TRANSLATIONS, translate
from alignment.errors import ArgumentError
from alignment.fields import show_value

TRANSLATED, SAME, NO_NEED, MISSING = "translated", "same default", "not needed here", "no counterpart"


_GLOBAL = frozenset({"train_batch_size"})
"""Flags that count rows over all processes."""


class FlagRow(NamedTuple):
    """What became of a flag."""

    flag: str
    value: str
    outcome: str
    """One of the four words above."""
    how: str


class Converted(NamedTuple):
    """The arguments of one of our commands."""

    target: str
    keys: dict[str, Any]
    rows: list[FlagRow]
    absent: list[str]
    """What does not exist on this machine yet."""


class Commands(NamedTuple):
    """What one of our commands accepts."""

    groups: Groups
    checks: Sequence[Check]


class _Unknown(Exception):
    """Raised for a flag that nothing knows."""


def convert(step: PeerStep, flags: Flags, ours: Commands) -> Converted:
    """Return the arguments of ``step``; an ArgumentError names all unknown flags, or what our parser refuses."""
    first = _Conversion(step, flags, declare(ours.groups))
    choices = {key: first.keys[key] for key in choosing_keys(ours.groups) if key in first.keys}
    owners = _owners(ours.groups, choices)
    found = _Conversion(step, flags, [slot for slot in declare(ours.groups) if slot.is_in(owners)])
    if found.unknown:
        raise ArgumentError(f"{step.target}: unknown flag(s) {', '.join(f'--{name}' for name in found.unknown)}")
    absent: list[str] = []
    parsed = parse_arguments(ours.groups, found.keys, checks=ours.checks, absent=absent)
    typed = {key: _plain(parsed.as_dict()[key]) for key in found.keys if key in parsed.as_dict()}
    written = {key: value if key in found.verbatim else typed.get(key, value) for key, value in found.keys.items()}
    same = _same_as_default(written, typed, found, ours)
    found.keys.update(written)
    rows = [*found.rows(same)]
    return Converted(step.target, {k: v for k, v in written.items() if k not in same}, rows, absent)


def _owners(groups: Groups, choices: Mapping[str, Any]) -> list[str]:
    """Return the choices of a run as ``DeclaredArgument.is_in`` reads them."""
    owners = []
    for slot in declare(groups):
        if slot.name in choosing_keys(groups):
            value = choices.get(slot.name, slot.default)
            owners.append(f"{slot.name}={(slot.constraint.spellings or {}).get(value, value)}")
    return owners


def _same_as_default(
    written: Mapping[str, Any], typed: Mapping[str, Any], found: _Conversion, ours: Commands
) -> set[str]:
    """Return the keys that may be left out, because the parser gives the same without them."""
    preset = choose(written.get("preset"), written.get("rl_algorithm", "ppo"), {})
    same = {
        key
        for key, value in typed.items()
        if key in found.slots and value == _plain(preset.get(key, found.slots[key].default)) and key != "preset"
    }
    if not same:
        return same
    less = {key: value for key, value in found.keys.items() if key not in same}
    try:
        parsed = parse_arguments(ours.groups, less, checks=ours.checks, absent=[])
    except ArgumentError:
        return set()
    values = parsed.as_dict()
    return same if all(_plain(values.get(key)) == value for key, value in typed.items()) else set()


class _Conversion:
    """One pass over the flags with the arguments that a run may have."""

    def __init__(self, step: PeerStep, flags: Flags, slots: Sequence[DeclaredArgument]) -> None:
        self.slots = {slot.name: slot for slot in slots}
        self._step, self._flags = step, flags
        self._names = {name: slot for slot in slots for name in slot.names}
        self._advice = {k: text for slot in slots for k, text in (slot.constraint.advice or {}).items()}
        self.keys: dict[str, Any] = {}
        self._origin: dict[str, list[str]] = {}
        self._told: list[tuple[str, Any, list[str] | NoNeed | NoCounterpart | ReadWith]] = []
        self.unknown: list[str] = []
        self._placement: dict[str, Any] = {}
        for name, value in flags.given.items():
            self._read(name, value)
        self._read_placement()
        for name, value in step.defaults.items():
            if name not in flags.given:
                self._read(name, value)
        self._put(step.keys, "always")
        self._put(dict(self._like()), "always")

    @property
    def verbatim(self) -> set[str]:
        """The keys whose values are written as they were given: paths, and objects."""
        return {
            key
            for key in self.keys
            if key in self.slots and (self.slots[key].constraint.path or self.slots[key].constraint.is_object)
        }

    def _like(self) -> Iterator[tuple[str, Any]]:
        settings = PRESETS[self._step.like]["ppo"] if self._step.like else {}
        for key, setting in settings.items():
            slot = self.slots.get(key)
            is_own = slot is not None and not slot.constraint.no_effect and key not in ("clip_range_score", "kl_coeff")
            if is_own or (slot is not None and self._step.keys.get("rl_algorithm") == "ppo_lagrangian"):
                yield key, setting.value

    def _put(self, keys: Mapping[str, Any], flag: str) -> None:
        for key, value in keys.items():
            name = self._names[key].name if key in self._names else key
            before = self.keys.get(name)
            if name == "offload_level" and before is not None:
                self.keys[name] = [*_listed(before), *(x for x in _listed(value) if x not in _listed(before))]
            elif name not in self.keys:
                self.keys[name] = value
            self._origin.setdefault(name, []).append(flag)

    def _read(self, name: str, value: Any) -> None:
        is_needed = not isinstance(self._step.answers.get(name), NoNeed)
        if is_needed and name in openrlhf.KEYS and "placement" in self._names:
            self._placement[name] = value
            return
        try:
            found = self._find(name, value)
        except _Unknown:
            if name in self._flags.given:
                self.unknown.append(name)
            return
        except ArgumentError as error:
            text = str(error)
            raise ArgumentError(text if text.startswith("--") else f"--{name}: {text}") from None
        except ValueError as error:
            found = NoCounterpart(str(error))
        if isinstance(found, Mapping):
            unknown = [key for key in found if key not in self._names]
            if unknown:
                self._told.append((name, value, NoCounterpart(f"{self._step.target} has no {unknown[0]} here")))
                return
            self._put(found, name)
            self._told.append((name, value, list(found)))
        else:
            self._told.append((name, value, found))

    def _find(self, name: str, value: Any) -> Mapping[str, Any] | NoNeed | NoCounterpart | ReadWith:
        """Return the keys for a flag, or why there are none."""
        answer = self._step.answers.get(name)
        last = name.rpartition(".")[2]
        if callable(answer):
            return answer(value, self._flags)
        if isinstance(answer, str):
            return {answer: value} if answer in self._names else NoCounterpart(f"{self._step.target} has no {answer}")
        if last in TRANSLATIONS:
            found = {item.key: item.value for item in translate(Given(last, value, "", f"--{name}"))}
            if found.keys() <= self._names.keys():
                return found
        if last in self._names:
            return _declared(self._names[last], value)
        if answer is not None:
            return answer
        return self._advised(last, value)

    def _advised(self, name: str, value: Any) -> Mapping[str, Any] | NoCounterpart:
        """Return what the advice for keys of other suites says; _Unknown if there is none."""
        peer = PEER_KEYS.get(name)
        if peer is not None and set(peer.ours) <= self._names.keys():
            return {peer.ours[0]: value} if peer.is_renamed else NoCounterpart(peer.how)
        if name in self._advice:
            return NoCounterpart(self._advice[name])
        raise _Unknown(name)

    def _read_placement(self) -> None:
        if not self._placement:
            return
        try:
            found = openrlhf.translate_placement(self._placement)
        except ValueError as error:
            raise ArgumentError(str(error)) from None
        self._put({"placement": found} if found else {}, "placement")
        for name, value in self._placement.items():
            self._told.append((name, value, ["placement"] if found else NoNeed("one process has all models")))

    def rows(self, same: set[str]) -> Iterator[FlagRow]:
        """Yield what became of each flag; ``same`` are the keys that were left out."""
        shown: set[str] = set()
        for name, value, found in self._told:
            is_given = name in self._flags.given
            outcome, how = self._tell(name, found, same, shown)
            if is_given or outcome == TRANSLATED:
                yield FlagRow(name if is_given else f"{name} (its default)", _show(value), outcome, how)
        yield from (FlagRow(f"({name})", "", MISSING, advice) for name, advice in self._step.notes.items())
        for key, origin in self._origin.items():
            if origin == ["always"] and key not in same:
                yield FlagRow("(what it always does)", "", TRANSLATED, f"{key}: {_show(self.keys[key])}")

    def _tell(self, name: str, found: Any, same: set[str], shown: set[str]) -> tuple[str, str]:
        """Return the outcome of a flag and what is shown of it; a key in ``shown`` is only named."""
        if isinstance(found, ReadWith):
            return TRANSLATED, f"with {found.flag}" + (f": {found.how}" if found.how else "")
        if not isinstance(found, list):
            return (NO_NEED if isinstance(found, NoNeed) else MISSING), found[0]
        names = list(dict.fromkeys(self._names[key].name for key in found))
        kept = [name for name in names if name not in same]
        words = [key if key in shown else f"{key}: {_show(self.keys[key])}" for key in kept or names]
        shown.update(kept)
        is_share = name in _GLOBAL and "gradient_accumulation_steps" in names
        share = f" (with {self._flags.processes} process(es))" if is_share else ""
        return (TRANSLATED if kept else SAME), (", ".join(words) or "off here too") + share


def _declared(slot: DeclaredArgument, value: Any) -> Mapping[str, Any] | NoNeed | NoCounterpart:
    """Return the key of a declared argument, or why it has no effect or is refused."""
    if slot.constraint.no_effect:
        return NoNeed(slot.constraint.no_effect)
    if slot.constraint.refusal and _show(value) != _show(slot.default):
        return NoCounterpart(slot.constraint.refusal)
    return {slot.name: True if value is BARE else value}


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _plain(value: Any) -> Any:
    """Return a value as it stands in a file."""
    return list(value) if isinstance(value, tuple) else value


def _show(value: Any) -> str:
    if value is BARE:
        return ""
    if isinstance(value, Mapping):
        return json.dumps(value)
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else show_value(value)
