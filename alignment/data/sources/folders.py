"""Find the data files of a folder and their splits, in plain folders and in those of ``datasets.save_to_disk``.

Hidden files, caches (``cache-*.arrow``) and metadata are not data. A folder of ``save_to_disk`` lists its own files.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from alignment.errors import DataError, why_unreadable

Splits = Sequence[str]
"""Names of splits in order of preference; the first that exists is read."""

SAVED, SAVED_SPLITS = "state.json", "dataset_dict.json"
_METADATA = {"dataset_info.json", "dataset_infos.json", SAVED_SPLITS, SAVED}
_WORDS: Mapping[str, str] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("validation", "valid", "val", "dev", "eval", "evaluation"), "validation"),
}
"""Words in a file or folder name that indicate a split."""


class Found(NamedTuple):
    """The files to read, and their split (None: no split)."""

    files: list[Path]
    split: str | None


def find_data(folder: Path, splits: Splits | None, is_data: Callable[[Path], bool]) -> Found:
    """Return the data files of a folder, sorted or in its listed order; ``splits`` None: of every split.

    ``is_data`` recognises a data file by its name. A requested split that does not exist is a ``DataError``.
    """
    if (folder / SAVED_SPLITS).is_file():
        names = _json(folder / SAVED_SPLITS).get("splits", [])
        by_split = {name: _saved_files(folder / name) for name in names}
    elif (folder / SAVED).is_file():
        return Found(_saved_files(folder), None)
    else:
        files = [file for file in _visible(folder) if is_data(file)]
        by_split = {}
        for file in files:
            by_split.setdefault(split_of(file.relative_to(folder)), []).append(file)
        if set(by_split) <= {None}:
            return Found(files, None)
    return _choose(folder, by_split, splits)


def split_of(path: Path) -> str | None:
    """Return the split that a relative path names (``train``, ``test_sft``, ...), or None.

    A folder named after a split decides; otherwise a word such as ``train`` or ``dev`` in the file name, without shard
    numbers.
    """
    for part in path.parts[:-1]:
        if part.lower() in _WORDS:
            return part
    stem = path.name.split(".")[0]
    stem = re.sub(r"[-_]\d+(-of-\d+)?(-[0-9a-f]{16})?$", "", stem)
    words = re.split(r"[-_ ]", stem.lower())
    return stem if any(word in _WORDS for word in words) else None


def canonical_split(name: str) -> str | None:
    """Return ``train``, ``test`` or ``validation`` for a name that contains a word for it, else None."""
    return next((_WORDS[word] for word in re.split(r"[-_ ]", name.lower()) if word in _WORDS), None)


def choose_split(names: Sequence[str], splits: Splits, place: str) -> str:
    """Return the one of ``names`` that ``splits`` asks for: the same name, or the only one with the same meaning."""
    for wanted in splits:
        if wanted in names:
            return wanted
        word = _WORDS.get(wanted.lower())
        same = [name for name in names if word is not None and canonical_split(name) == word]
        if len(same) == 1:
            return same[0]
        if same:
            raise DataError(f"{place} holds {' and '.join(same)} for split {wanted!r}; choose one with split=NAME")
    raise DataError(
        f"{place} has no split {' or '.join(map(repr, splits))} (it has {', '.join(names) or 'none'}); choose one with "
        "split=NAME"
    )


def _choose(folder: Path, by_split: Mapping[str | None, list[Path]], splits: Splits | None) -> Found:
    if splits is None:
        return Found(sorted(file for files in by_split.values() for file in files), None)
    if None in by_split:
        raise DataError(
            f"{folder} holds files of a split and files of no split ({by_split[None][0].name}); name the file to read"
        )
    name = choose_split([name for name in by_split if name is not None], splits, str(folder))
    return Found(by_split[name], name)


def _saved_files(folder: Path) -> list[Path]:
    """Return the data files listed by a folder of ``save_to_disk``."""
    if not (folder / SAVED).is_file():
        raise DataError(f"{folder} is a split of a saved dataset and has no {SAVED}")
    listed = _json(folder / SAVED).get("_data_files") or []
    files = [folder / Path(str(item.get("filename"))).name for item in listed]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise DataError(f"{folder}: {SAVED} lists {missing[0]!r}, which does not exist")
    return files


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {why_unreadable(error)}") from error
    if not isinstance(value, dict):
        raise DataError(f"{path} must hold an object, got {value!r:.60}")
    return value


def _visible(folder: Path) -> list[Path]:
    """Return files that are neither hidden, caches nor metadata, sorted by path."""
    return sorted(
        file
        for file in folder.rglob("*")
        if file.is_file()
        and not any(part.startswith((".", "__")) for part in file.relative_to(folder).parts)
        and file.name not in _METADATA
        and not (file.name.startswith("cache-") and file.suffix == ".arrow")
    )
