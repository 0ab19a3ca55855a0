"""Cache encoded rows on disk, keyed by the rows, the tokenizer, the options and this code.

An entry is a folder that is written atomically and verified before use; damaged entries are rebuilt.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from alignment.data.encoded.store import NotPlainError, Store
from alignment.data.tokenizer import KeyedTokenizer, TokenizerLike
from alignment.telemetry import log

INDEX = "index.json"
_ORDER = "order.npy"


class CacheEntry(NamedTuple):
    """The result of reading and encoding the rows."""

    store: Store
    order: np.ndarray
    """[rows used] int64: indices into ``store``."""
    account: dict[str, Any]
    """The ledger, as ``Ledger.as_dict`` gives it."""


class EncodedCache:
    """Entries of one dataset with one tokenizer and one set of options, in ``folder``."""

    def __init__(self, folder: Path, setup: str) -> None:
        """``setup`` identifies dataset, tokenizer and options; other entries in ``folder`` are left alone."""
        self._folder = folder
        self._setup = setup
        self._prefix = hashlib.sha256(setup.encode()).hexdigest()[:16]

    @property
    def may_hold(self) -> bool:
        """True: there is an entry of this setup, not necessarily of the same rows."""
        return any(self._folder.glob(f"{self._prefix}-*/{INDEX}"))

    def load(self, rows: str) -> CacheEntry | None:
        """Return the entry of the rows with the hash ``rows``; a damaged one is deleted with a warning."""
        path = self._path(rows)
        try:
            index = json.loads((path / INDEX).read_bytes())
            damaged = [name for name, digest in index["files"].items() if _digest(path / name) != digest]
            if damaged:
                raise ValueError(f"{', '.join(damaged)} changed since it was written")
            store = Store.load(path, index["columns"], index["size"])
            return CacheEntry(store, np.load(path / _ORDER, allow_pickle=False), index["account"])
        except FileNotFoundError:
            if not path.exists():
                return None
            reason = "a file is missing"
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            reason = str(error)
        log.warn(f"encoded rows in {path} are damaged ({reason}); they are encoded again")
        shutil.rmtree(path, ignore_errors=True)
        return None

    def save(self, rows: str, entry: CacheEntry) -> None:
        """Write an entry and delete older ones of this setup; a failure is logged, and the run continues."""
        aside = None
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            aside = Path(tempfile.mkdtemp(prefix=".new-", dir=self._folder))
            self._write(aside, entry)
            outdated = [path for path in self._folder.glob(f"{self._prefix}-*") if path != self._path(rows)]
            if not self._path(rows).exists():
                os.rename(aside, self._path(rows))
            for path in outdated:
                shutil.rmtree(path, ignore_errors=True)
        except (OSError, NotPlainError) as error:
            log.warn(f"encoded rows could not be cached in {self._folder}: {error}")
        finally:
            if aside is not None:
                shutil.rmtree(aside, ignore_errors=True)

    def _path(self, rows: str) -> Path:
        return self._folder / f"{self._prefix}-{rows[:32]}"

    @staticmethod
    def _write(folder: Path, entry: CacheEntry) -> None:
        columns = entry.store.save(folder)
        np.save(folder / _ORDER, entry.order, allow_pickle=False)
        files = {path.name: _digest(path) for path in folder.iterdir()}
        index = {"files": files, "columns": columns, "size": entry.store.size, "account": entry.account}
        (folder / INDEX).write_text(json.dumps(index, indent=1))


def describe_setup(tokenizer: TokenizerLike, parts: Mapping[str, Any]) -> str | None:
    """Return a key of the tokenizer, this code and ``parts``; None if the tokenizer has no key."""
    if not isinstance(tokenizer, KeyedTokenizer):
        return None
    return json.dumps({"code": _code_key(), "tokenizer": tokenizer.content_key(), **parts}, default=str, sort_keys=True)


@cache
def _code_key() -> str:
    """Return a hash of the code of ``alignment.data``."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).resolve().parents[1].rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
