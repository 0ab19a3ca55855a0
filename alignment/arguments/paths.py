"""Resolve relative paths: inputs are looked up beside the JSON file, then in the current folder.

On the command line the order is reversed; outputs are always relative to the current folder.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from alignment.arguments.rewards.entries import resolve_entries
from alignment.errors import ArgumentError

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.\-]*(/[A-Za-z0-9][\w.\-]*)?")


_DATA_PATH = re.compile(r"^(\.{1,2}/|/|~)|\.(jsonl?|parquet|csv|arrow)(\.(gz|bz2|xz|zst))?$")
"""Matches what cannot be the name of a registered dataset: an explicit path, or the name of a data file."""

_LONGEST_SHOWN = 300
"""Maximum characters of a path in a message."""


class AbsentPathError(ArgumentError):
    """Raised for a path that names nothing."""


def _first_existing(value: str, folders: Sequence[Path], kind: str) -> Path:
    """Return the first existing absolute path of ``value`` in ``folders``.

    The AbsentPathError names ``kind``, what was looked for, and every path that was tried.
    """
    tried: list[Path] = []
    for folder in folders:
        path = (folder / _expand(value)).resolve()
        if os.path.exists(path):
            return path
        if path not in tried:
            tried.append(path)
    shown, places = _cut(repr(value)), " and ".join(_cut(str(path)) for path in tried)
    raise AbsentPathError(f"{kind} {shown} does not exist; tried {places}")


def _expand(value: str) -> Path:
    """Return ``value`` as a path with ``~`` expanded; ArgumentError if that fails."""
    try:
        return Path(value).expanduser()
    except RuntimeError:
        raise ArgumentError(f"{_cut(repr(value))} begins with an unknown home folder") from None


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}... ({len(text)} characters)"


def _resolve_model(value: str, folders: Sequence[Path], kind: str = "model folder") -> str:
    """Return an existing local folder as an absolute path, or a hub name (``org/name``) unchanged.

    The name of a data file (``rows.jsonl``) is never that of a dataset on the hub.
    """
    try:
        return str(_first_existing(value, folders, kind))
    except AbsentPathError as error:
        is_file = kind == "dataset path" and _DATA_PATH.search(value)
        if _HUB_NAME.fullmatch(value) and not is_file:
            return value
        raise AbsentPathError(f"{error} (and it is not a hub name like 'org/name')") from None


def _resolve_file(value: str, folders: Sequence[Path]) -> str:
    return str(_first_existing(value, folders, "file"))


def _resolve_template(value: str, folders: Sequence[Path]) -> str:
    """Return the path of a template file; Jinja text is returned unchanged."""
    return value if "{{" in value or "{%" in value else str(_first_existing(value, folders, "template file"))


def _resolve_checkpoint(value: str, folders: Sequence[Path]) -> str:
    return str(_first_existing(value, folders, "checkpoint folder"))


def _resolve_datasets(spec: str, folders: Sequence[Path]) -> str:
    """Return ``name[:proportion[:path]],...`` with each path resolved by ``_resolve_model``."""
    if spec.lstrip().startswith(("[", "{")):
        return json.dumps(_resolve_entries(_parse(spec), folders), ensure_ascii=False)
    return ",".join(_resolve_dataset(part, folders) for part in spec.split(","))


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ArgumentError(f"datasets {text!r:.80} must be valid JSON, or name[:proportion[:path]]: {error}") from None


def _resolve_entries(value: Any, folders: Sequence[Path]) -> Any:
    """Resolve the paths of all entries in a list or object of datasets."""
    if isinstance(value, list):
        return [
            _resolve_datasets(item, folders) if isinstance(item, str) else _resolve_entries(item, folders)
            for item in value
        ]
    if not isinstance(value, dict):
        return value
    return {
        key: _resolve_model(item, folders, "dataset path")
        if key == "path" and isinstance(item, str)
        else _resolve_entries(item, folders)
        if isinstance(item, dict)
        else item
        for key, item in value.items()
    }


def _resolve_dataset(part: str, folders: Sequence[Path]) -> str:
    """Resolve the third part; text without a path, or with too many parts, is left to the parser of dataset names.

    A plain path of data (``data/train.jsonl``, ``./data``) is a ``jsonl`` dataset.
    """
    pieces = part.split(":")
    if len(pieces) == 1 and _DATA_PATH.search(part.strip()):
        pieces = ["jsonl", "1.0", part]
    if len(pieces) != 3 or not pieces[2].strip():
        return part
    return ":".join([*pieces[:2], _resolve_model(pieces[2].strip(), folders, "dataset path")])


def _resolve_module(value: str, folders: Sequence[Path]) -> str:
    return _resolve_file(value, folders) if value.endswith(".py") else value


def _resolve_function(value: str, folders: Sequence[Path]) -> str:
    module, colon, name = value.rpartition(":")
    if not colon or not module or not name.isidentifier():
        raise ArgumentError(f"expected 'package.module:function' or 'file.py:function', got {value!r}")
    return f"{_resolve_module(module, folders)}:{name}"


def _resolve_rewards(spec: str, folders: Sequence[Path]) -> str:
    """Return the reward sources as JSON of complete entries, with the paths of models and functions resolved."""
    return resolve_entries(
        spec,
        {
            "model": lambda name: _resolve_model(name, folders, "reward model folder"),
            "function": lambda name: _resolve_function(name, folders),
        },
    )


def _resolve_output(value: str, folders: Sequence[Path]) -> str:
    variable = re.search(r"\$\{?[A-Za-z_]\w*\}?", value)
    if variable:
        raise ArgumentError(f"{value!r} contains {variable[0]}, which only a shell expands; write the folder itself")
    if not value.strip():
        raise ArgumentError("a folder has no name; write '.' for the current one")
    return str((Path.cwd() / _expand(value)).absolute())


RESOLVERS: Mapping[str, Callable[[str, Sequence[Path]], str]] = MappingProxyType(
    {
        "model": _resolve_model,
        "file": _resolve_file,
        "template": _resolve_template,
        "checkpoint": _resolve_checkpoint,
        "datasets": _resolve_datasets,
        "module": _resolve_module,
        "function": _resolve_function,
        "rewards": _resolve_rewards,
        "output": _resolve_output,
    }
)
"""The values of ``Constraint.path``; each resolver takes the value and the folders to try, in order."""
