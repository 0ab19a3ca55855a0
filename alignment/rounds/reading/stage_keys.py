"""The keys of one stage: read by the parser of the stage or trainer they belong to, before anything runs.

What the loop fills in (models, prompts, files) is refused where a user gives it; for the check it is there already, so
that every other problem is found.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignment.arguments.groups import Groups, declare
from alignment.arguments.parsed import Parsed
from alignment.arguments.parser import Check, parse_arguments
from alignment.arguments.rewards.entries import read_entries
from alignment.arguments.sources import NestedKeys
from alignment.data.raw.dataset_spec import parse_datasets
from alignment.errors import ArgumentError, UserError

Filled = Mapping[str, Any]
_OF_A_START = frozenset(
    ("output_file", "overwrite", "num_workers", "disable_tqdm", "rollout_kv_memory", "output_dir")
    + ("overwrite_output_dir", "resume_from_checkpoint", "run_name", "logging_dir", "report_to", "save_total_limit")
)
"""Keys on which what a stage makes does not depend."""


@dataclass(frozen=True)
class StageKeys:
    """The keys of one stage."""

    stage: str
    """Its name in the loop's file."""
    parsed: Parsed
    groups: Groups
    filled: Filled
    """What the loop fills in; the values are stand-ins."""

    def arguments(self, filled: Filled, *, round_number: int = 1) -> dict[str, Any]:
        """Return an argument file of the stage for a round: what the user gave, and what the loop fills in.

        The seed is another one in each round.
        """
        given = {key: value for key, value in self.parsed.as_dict().items() if self.parsed.given(key)}
        own = {key: value for key, value in given.items() if key not in self.filled}
        seed = {"seed": self.seed + round_number - 1} if self.seed is not None else {}
        return {**own, **seed, **filled}

    @property
    def seed(self) -> int | None:
        """The seed of the first round; None: the stage has none."""
        return self.parsed.as_dict().get("seed")

    def made_from(self, round_number: int = 1) -> tuple[dict[str, Any], dict[str, Path]]:
        """Return the keys on which the stage's result depends, and the files and folders that they name.

        A path is represented by what stands there, so that a folder may be moved.
        """
        keys: dict[str, Any] = {}
        inputs: dict[str, Path] = {}
        kinds = {slot.name: slot.constraint.path for slot in declare(self.groups)}
        for name, value in self.parsed.as_dict().items():
            if name in self.filled or name in _OF_A_START:
                continue
            keys[name], found = _take_paths(name, value, kinds[name])
            inputs |= found
        if self.seed is not None:
            keys["seed"] = self.seed + round_number - 1
        return keys, inputs


def parse_stage(
    stage: str,
    section: NestedKeys,
    groups: Groups,
    *,
    filled: Filled,
    checks: Sequence[Check] = (),
    problems: list[str],
) -> StageKeys | None:
    """Parse the keys of ``stage``, with ``filled`` for what the loop fills in; None if there are ``problems``, which
    are added.
    """
    names = {name: slot.name for slot in declare(groups) for name in slot.names}
    own = [key for key in section.keys if names.get(key) in filled]
    problems += [f"{stage}: {key} is filled in by the loop; leave it out ({section.place})" for key in own]
    rest = {key: value for key, value in section.keys.items() if key not in own}
    try:
        parsed = parse_arguments(groups, section._replace(keys={**rest, **filled}), checks=checks)
    except UserError as error:
        problems += [f"{stage}: {problem}" for problem in told_problems(error)]
        return None
    return StageKeys(stage, parsed, groups, filled)


def told_problems(error: UserError) -> list[str]:
    """Return the problems that the message of a parser lists, or the whole message."""
    head, *told = str(error).split("\n  ")
    return told or [head]


def read_object(stage: str, value: Any, place: str, base_dir: Path) -> dict[str, NestedKeys]:
    """Return the keys of ``stage``, an object or its JSON text; nothing for None."""
    if value is None:
        return {}
    try:
        keys = json.loads(value) if isinstance(value, str) else value
    except ValueError:
        keys = None
    if not isinstance(keys, dict):
        raise ArgumentError(f"{stage}: expected an object of keys, got {value!r:.80} ({place})")
    return {stage: NestedKeys(keys, place, base_dir)}


def _take_paths(name: str, value: Any, kind: str | None) -> tuple[Any, dict[str, Path]]:
    """Return ``value`` without local paths, and these by name."""
    if kind in (None, "output") or value is None or not isinstance(value, (str, tuple)):
        return value, {}
    if kind == "rewards":
        return _take_rewards(name, str(value))
    if kind == "datasets":
        return _take_datasets(name, str(value))
    found, left = {}, []
    for item in (value,) if isinstance(value, str) else value:
        text = item.rpartition(":")[0] if kind == "function" else item
        path = Path(text)
        if path.is_absolute() and path.exists():
            found[f"{name} {path.name}"] = path
            left.append(item.replace(text, path.name))
        else:
            left.append(item)
    return left, found


def _take_rewards(name: str, value: str) -> tuple[Any, dict[str, Path]]:
    found, left = {}, []
    for entry in read_entries(value):
        text = entry.name.rpartition(":")[0] if entry.kind == "function" else entry.name
        path = Path(text)
        fields = dict(vars(entry))
        if path.is_absolute() and path.exists():
            found[f"{name} {entry.log_as}"] = path
            fields["name"] = entry.name.replace(text, path.name)
        left.append(fields)
    return left, found


def _take_datasets(name: str, value: str) -> tuple[Any, dict[str, Path]]:
    try:
        specs = parse_datasets(value)
    except UserError:
        return value, {}  # its dataset may come from a module that is not loaded here
    found, left = {}, []
    for spec in specs:
        path = Path(str(spec.arguments.get("path", "")))
        is_there = path.is_absolute() and path.exists()
        if is_there:
            found[f"{name} {path.name}"] = path
        rest = {key: path.name if key == "path" and is_there else item for key, item in spec.arguments.items()}
        left.append([spec.name, str(spec.proportion), rest])
    return left, found
