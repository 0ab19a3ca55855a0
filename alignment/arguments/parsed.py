"""The parsed arguments: frozen groups, the origin of each value, and saving them with a run."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignment.telemetry.files import replace_file

SAVED_NAME = "arguments.json"


def is_given(origin: str) -> bool:
    """Tell whether a value of this origin is the user's: not a default, of this suite or of a preset."""
    return origin != "default" and not is_of_preset(origin)


def is_of_preset(origin: str) -> bool:
    """Tell whether a value of this origin is one that a preset set."""
    return origin.startswith("preset ")


@dataclass(frozen=True, kw_only=True)
class Parsed:
    """Frozen dataclass instances by group name, also as attributes: ``parsed.training.learning_rate``."""

    groups: Mapping[str, Any]
    """Group name to instance; no key occurs in two groups."""
    origins: Mapping[str, str]
    """Key to ``default``, ``file``, ``command line``, ``Python call``, ``preset NAME`` or ``derived`` (from
    another key)."""
    base_dir: Path
    """Absolute folder of the JSON file; the current folder without one."""

    def __getattr__(self, name: str) -> Any:
        groups = self.__dict__.get("groups", {})
        if name not in groups:
            raise AttributeError(f"no argument group {name!r}; groups: {', '.join(groups)}")
        return groups[name]

    def given(self, key: str) -> bool:
        """Tell whether the user gave the key (or an alias)."""
        return is_given(self.origins[key])

    def as_dict(self) -> dict[str, Any]:
        """Return every key with its value; lists are tuples."""
        return {f.name: getattr(g, f.name) for g in self.groups.values() for f in dataclasses.fields(g)}

    def replace(self, group: str, **values: Any) -> Parsed:
        """Return these arguments with ``values``, derived from other keys, in one group."""
        changed = dataclasses.replace(self.groups[group], **values)
        origins = {**self.origins, **dict.fromkeys(values, "derived")}
        return dataclasses.replace(self, groups={**self.groups, group: changed}, origins=origins)

    def save(self, output_dir: Path) -> Path:
        """Write ``arguments.json`` ({key: {value, origin}}) atomically into ``output_dir``."""
        rows = {key: {"value": value, "origin": self.origins[key]} for key, value in self.as_dict().items()}
        replace_file(output_dir / SAVED_NAME, json.dumps(rows, indent=1))
        return output_dir / SAVED_NAME
