"""Checksums of what a stage reads and writes: files, and the content of folders that decides about numbers."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from alignment.telemetry.files import replace_file

_SUFFIXES = frozenset((".safetensors", ".json", ".model", ".jinja", ".txt", ".bin", ".pdparams", ".py"))
"""Files of a model folder: weights, descriptions, tokenizers. Logs and tables that stand beside do not count."""
_SKIPPED = ("checkpoint-", ".", "runs", "plots")
_BLOCK = 1 << 20


class Digests:
    """SHA-256 of files and folders; a file is read again only if its size or time of change differs."""

    def __init__(self, cache: Path) -> None:
        """``cache`` keeps the checksums of the files that were read; a damaged one is as good as none."""
        self._cache = cache
        try:
            self._known: dict[str, list[object]] = json.loads(cache.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            self._known = {}

    def of(self, path: Path) -> str | None:
        """Return the checksum of a file or of a folder's content; None if nothing is there."""
        if path.is_file():
            return self._of_file(path)
        if not path.is_dir():
            return None
        digest = hashlib.sha256()
        for file in sorted(_files(path)):
            digest.update(f"{file.relative_to(path).as_posix()}\0{self._of_file(file)}\n".encode())
        return digest.hexdigest()

    def save(self) -> None:
        """Keep what was read for the next start."""
        replace_file(self._cache, json.dumps(self._known))

    def _of_file(self, path: Path) -> str:
        facts = path.stat()
        seen = [facts.st_size, facts.st_mtime_ns]
        known = self._known.get(str(path))
        if isinstance(known, list) and known[:2] == seen:
            return str(known[2])
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
        self._known[str(path)] = [*seen, digest.hexdigest()]
        return digest.hexdigest()


def _files(folder: Path) -> list[Path]:
    """Return the files of a model folder, or of a run's folder its models."""
    found = []
    for path in folder.iterdir():
        if path.name.startswith(_SKIPPED):
            continue
        if path.is_dir():
            found += _files(path)
        elif path.suffix in _SUFFIXES:
            found.append(path)
    return found
