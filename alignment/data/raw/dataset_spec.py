"""Parse what to mix: ``name[:proportion[:path]]`` strings, dicts and pairs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from alignment.data.raw.layouts.mapping import KEYS
from alignment.data.raw.raw_dataset import canonical_name, dataset_class_of, is_registered
from alignment.errors import DataError

Proportion = float | Fraction
"""A multiple of the rows (0.5, 2.0, ...), or the negative Fraction -N for exactly N rows."""
Datasets = str | Mapping[str, Any] | Iterable[Any]

ROWS = "jsonl"
"""The NAME of the dataset that reads any known layout."""
_FORM = "name[:proportion[:path]]"
_ALLOWED = "a number >= 0, a fraction 'a/b', or 'N/-1' for exactly N rows"


@dataclass(frozen=True)
class DatasetSpec:
    """One dataset of a mixture; ``arguments`` go to its constructor."""

    name: str
    """The registered NAME."""
    label: str
    """Its name in messages and the ledger: the NAME, with the path if the NAME is listed several times."""
    proportion: Proportion
    arguments: Mapping[str, Any]
    base_dir: Path | None = None
    """The folder in which relative paths are looked up first."""


def parse_dataset(text: str) -> tuple[str, dict[str, Any]]:
    """Parse ``name[:proportion[:path]]`` to ``(name, {"proportion": p[, "path": path]})``.

    An empty proportion is 1.0; ``a/b`` is a fraction; ``N/-1`` means exactly N rows (returned as ``Fraction(-N)``).
    """
    parts = text.strip().split(":")
    if len(parts) > 3 or not parts[0].strip():
        raise DataError(f"dataset {text!r} is not of the form {_FORM}")
    name, proportion, path = (*(part.strip() for part in parts), "", "")[:3]
    attributes: dict[str, Any] = {"proportion": _parse_proportion(proportion, text) if proportion else 1.0}
    if path:
        attributes["path"] = str(Path(path).expanduser())
    return name, attributes


def parse_datasets(
    datasets: Datasets, *, base_dir: Path | None = None, defaults: Mapping[str, Any] | None = None
) -> list[DatasetSpec]:
    """Parse every accepted form into a list of specs.

    Forms: a comma list of ``name[:proportion[:path]]``; a dict ``name -> proportion | {"proportion", "path", ...}``;
    an iterable of such strings, of (name, value) pairs, or of dicts ``{"name", "proportion", "path", ...}`` (default
    name: ``jsonl``); the JSON text of any of these; or a list of specs, returned unchanged. A file or folder instead of
    a name is read as ``jsonl``. A NAME may be listed twice only with different constructor arguments (two files).
    Proportion 0 leaves a dataset out. Relative paths are looked up in ``base_dir`` first. ``defaults`` are constructor
    arguments for datasets whose ``OPTIONS`` contain them; a dataset's own arguments win.
    """
    if isinstance(datasets, (list, tuple)) and datasets and all(isinstance(item, DatasetSpec) for item in datasets):
        return list(datasets)
    specs: list[DatasetSpec] = []
    for given, value in _pairs(datasets):
        attributes = dict(value) if isinstance(value, Mapping) else {"proportion": value}
        proportion = check_proportion(attributes.pop("proportion", 1.0), given)
        if "path" not in attributes and not is_registered(given) and _exists(given, base_dir):
            given, attributes["path"] = ROWS, given
        if isinstance(attributes.get("path"), (str, Path)):
            attributes["path"] = resolve_path(attributes["path"], base_dir)
        name = canonical_name(given)
        attributes = {**_defaults_for(name, attributes, defaults or {}), **attributes}
        if any(spec.name == name and spec.arguments == attributes for spec in specs):
            raise DataError(f"dataset {given!r} (registered as {name!r}) is listed twice with the same arguments")
        specs.append(DatasetSpec(name, given, proportion, attributes, base_dir))
    if not any(spec.proportion for spec in specs):
        raise DataError(f"no dataset to read in {datasets!r}; give at least one {_FORM} with a proportion above 0")
    return _label([spec for spec in specs if spec.proportion])


def _defaults_for(name: str, given: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return the defaults that a dataset accepts and that its own arguments do not set, under this or another key."""
    said = {KEYS.get(key, key) for key in given}
    takes = dataset_class_of(name).accepted_options()
    return {key: value for key, value in defaults.items() if key in takes and KEYS.get(key, key) not in said}


def check_proportion(value: Any, name: str) -> Proportion:
    """Return ``value`` as a multiple (float) or an exact count (negative Fraction); anything else is refused."""
    if isinstance(value, str):
        return _parse_proportion(value.strip(), name)
    if isinstance(value, Fraction):
        if value < 0 and value.denominator != 1:
            raise DataError(f"dataset {name!r}: proportion {value} must be {_ALLOWED}")
        return value if value < 0 else float(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
        raise DataError(f"dataset {name!r}: proportion {value!r} must be {_ALLOWED}")
    return float(value)


def resolve_path(path: str | Path, base_dir: Path | None) -> str:
    """Return ``path`` under ``base_dir`` if it exists there, else unchanged (the current folder, or a hub name)."""
    plain = Path(path).expanduser()
    if base_dir is not None and (Path(base_dir) / plain).exists():
        return str(Path(base_dir) / plain)
    return str(plain)


def _exists(path: str, base_dir: Path | None) -> bool:
    try:
        return Path(resolve_path(path, base_dir)).exists()
    except OSError:  # too long for a path
        return False


def _parse_proportion(text: str, place: str) -> Proportion:
    numerator, slash, denominator = text.partition("/")
    try:
        if slash and denominator.strip() == "-1":
            count = int(numerator)
            if count >= 0:
                return Fraction(-count) if count else 0.0
            raise ValueError(text)
        return check_proportion(float(numerator) / float(denominator) if slash else float(text), place)
    except (ValueError, ZeroDivisionError) as error:
        raise DataError(f"dataset {place!r}: proportion {text!r} must be {_ALLOWED}") from error


def _parse_json(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"datasets {text!r:.80} are not valid JSON: {error}") from error


def _pairs(datasets: Datasets) -> Iterable[tuple[str, Any]]:
    if isinstance(datasets, str) and datasets.lstrip().startswith(("[", "{")):
        return _pairs(_parse_json(datasets))
    if isinstance(datasets, str):
        return [parse_dataset(item) for item in datasets.split(",")]
    if isinstance(datasets, Mapping):
        is_one = any(isinstance(datasets.get(key), (str, Path)) for key in ("name", "path"))
        return [_pair(datasets)] if is_one else list(datasets.items())
    return [_pair(item) for item in datasets]


def _pair(item: Any) -> tuple[str, Any]:
    if isinstance(item, str):
        return parse_dataset(item)
    if isinstance(item, Mapping):
        name = item.get("name", ROWS)
        if not isinstance(name, str):
            raise DataError(f"dataset entry {dict(item)!r}: name must be text, got {name!r}")
        if not {"name", "path"} & set(item):
            raise DataError(
                f"dataset entry {dict(item)!r:.200}: has neither name nor path. Rows are read from files: if this is a "
                "row, write the rows to a .jsonl file, one object per line, and give its path"
            )
        return name, {key: value for key, value in item.items() if key != "name"}
    if isinstance(item, (tuple, list)) and len(item) == 2 and isinstance(item[0], str):
        return item[0], item[1]
    raise DataError(f"dataset entry {item!r} is neither a {_FORM} string nor a (name, value) pair nor an object")


def _label(specs: list[DatasetSpec]) -> list[DatasetSpec]:
    names = [spec.name for spec in specs]
    labels = [
        spec.name if names.count(spec.name) == 1 else f"{spec.name}:{spec.arguments.get('path', number)}"
        for number, spec in enumerate(specs)
    ]
    return [replace(spec, label=label) for spec, label in zip(specs, labels, strict=True)]
