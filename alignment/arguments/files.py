"""Argument files: one flat JSON or YAML object of key: value, with the line of every key."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from alignment.arguments.sources import Given, Source, is_remark
from alignment.errors import ArgumentError, why_unreadable

YAML_SUFFIXES = (".yaml", ".yml")


class _FileKey(NamedTuple):
    """A key of a file, with its line."""

    key: str
    value: Any
    line: int | None


def read_file(path: Path) -> Source:
    """Read a flat object from a ``.yaml`` / ``.yml`` file, or from JSON, without keys that are comments.

    A repeated key is a problem; a file that cannot be read is an ArgumentError that names the place.
    """
    text = _read_text(path)
    entries = list(_read_yaml(text, path) if path.suffix.lower() in YAML_SUFFIXES else _read_json(text, path))
    problems: list[str] = []
    given: dict[str, Given] = {}
    for entry in entries:
        if is_remark(entry.key):
            continue
        if entry.key in given:
            lines = [str(other.line) for other in entries if other.key == entry.key and other.line]
            where = f"lines {' and '.join(lines)} of {path}" if len(lines) > 1 else str(path)
            problems.append(f"{entry.key}: given more than once ({where})")
        place = f"{path}, line {entry.line}" if entry.line else str(path)
        given[entry.key] = Given(entry.key, entry.value, "file", place)
    return Source(list(given.values()), list(dict.fromkeys(problems)))


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ArgumentError(f"arguments file {str(path)!r} does not exist; tried {path.absolute()}") from None
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise ArgumentError(f"arguments file {path.absolute()} cannot be read: {why_unreadable(error)}") from None


class _Pairs(list[tuple[str, Any]]):
    """The pairs of a JSON object in order, including repeated keys."""


def _read_json(text: str, path: Path) -> Iterable[_FileKey]:
    try:
        pairs = json.loads(text, object_pairs_hook=_Pairs)
    except json.JSONDecodeError as error:
        place = f"{path.absolute()}, line {error.lineno}, column {error.colno}"
        raise ArgumentError(f"invalid JSON in {place}: {error.msg}") from None
    except (RecursionError, ValueError) as error:
        raise ArgumentError(f"invalid JSON in {path.absolute()}: {error}") from None
    if not isinstance(pairs, _Pairs):
        raise ArgumentError(f"{path.absolute()} must hold one JSON object of key: value, got {pairs!r:.60}")
    seen: dict[str, int] = {}
    for key, value in pairs:
        lines = _lines_of(key, text)
        number = seen[key] = seen.get(key, -1) + 1
        yield _FileKey(
            key, _plain(value, f"{path.absolute()}, {key}"), lines[min(number, len(lines) - 1)] if lines else None
        )


def _plain(value: Any, place: str) -> Any:
    """Return a JSON value with plain dicts at any depth; a repeated key is an ArgumentError."""
    if isinstance(value, _Pairs):
        names = [key for key, _ in value]
        repeated = next((name for name in names if names.count(name) > 1), None)
        if repeated is not None:
            raise ArgumentError(f"{place}: {repeated!r} is given more than once in one object")
        return {key: _plain(item, place) for key, item in value}
    return [_plain(item, place) for item in value] if isinstance(value, list) else value


def _lines_of(key: str, text: str) -> list[int]:
    pattern = re.compile(rf"{re.escape(json.dumps(key, ensure_ascii=False))}\s*:")
    return [number for number, line in enumerate(text.splitlines(), 1) if pattern.search(line)]


def _read_yaml(text: str, path: Path) -> Iterable[_FileKey]:
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if not isinstance(node, yaml.MappingNode):
            raise ArgumentError(f"{path.absolute()} must hold one YAML mapping of key: value")
        for key, value in node.value:
            yield _FileKey(str(key.value), loader.construct_object(value, deep=True), key.start_mark.line + 1)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path.absolute()}" + (f", line {mark.line + 1}, column {mark.column + 1}" if mark else "")
        raise ArgumentError(f"invalid YAML in {place}: {getattr(error, 'problem', None) or error}") from None
    except (RecursionError, ValueError) as error:
        raise ArgumentError(f"invalid YAML in {path.absolute()}: {error}") from None
    finally:
        loader.dispose()
