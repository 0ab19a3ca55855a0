"""Import users' dataset modules, so that their classes register without a change to this package.

Inside such a module ``from data import RawDataset, RawSample`` works as in PaddleNLP's suite: the name ``data`` is an
alias of ``alignment.data`` during the import and afterwards. It never hides anything: an existing package called
``data`` is imported as usual, and if there is a plain folder ``data`` the alias is removed after the import.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType

import alignment.data as public
from alignment.errors import DataError, UserError

ALIAS = "data"


def load_dataset_modules(specs: Sequence[str], base_dir: Path | None = None) -> list[ModuleType]:
    """Import each module, by dotted name or ``.py`` path, unless it is already loaded.

    Both are looked up in ``base_dir`` (the folder of the JSON file), then in the current folder; dotted names first on
    Python's own path. Any failure is a ``DataError`` naming the module and the line.
    """
    if isinstance(specs, str):
        specs = [part.strip() for part in specs.split(",") if part.strip()]
    return [load_module(spec, base_dir, kind="dataset module") for spec in specs]


def load_module(spec: str, base_dir: Path | None = None, *, kind: str) -> ModuleType:
    """Import one user module as ``load_dataset_modules`` does; ``kind`` says in messages what it is for."""
    folders = list(dict.fromkeys(Path(folder).resolve() for folder in (base_dir or Path.cwd(), Path.cwd())))
    named = f"{kind} {spec!r}"
    with _search_path(folders), _data_alias(spec):
        try:
            return _import_file(spec, folders, named) if spec.endswith(".py") else _import_name(spec, folders, named)
        except UserError:
            raise
        except (Exception, SystemExit) as error:  # the module is the user's: report whatever its code raises
            frame = traceback.extract_tb(error.__traceback__)[-1]
            raise DataError(
                f"{named} cannot be imported: {type(error).__name__}: {error} ({frame.filename}, line {frame.lineno})"
            ) from error


def _import_file(spec: str, folders: Sequence[Path], named: str) -> ModuleType:
    path = Path(spec).expanduser()
    candidates = [path] if path.is_absolute() else [folder / path for folder in folders]
    found = next((candidate.resolve() for candidate in candidates if candidate.is_file()), None)
    if found is None:
        raise DataError(f"{named}: no such file (tried {', '.join(map(str, candidates))})")
    name = f"{found.stem}_{hashlib.sha256(str(found).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    module_spec = importlib.util.spec_from_file_location(name, found)
    assert module_spec is not None and module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[name] = module
    try:
        module_spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _import_name(spec: str, folders: Sequence[Path], named: str) -> ModuleType:
    try:
        return importlib.import_module(spec)
    except ModuleNotFoundError as error:
        if error.name is None or not (spec == error.name or spec.startswith(error.name + ".")):
            raise
        raise DataError(
            f"{named}: no module {error.name!r} (looked in {', '.join(map(str, folders))} and Python's "
            "own path); give a dotted module name or a path ending in .py"
        ) from error


@contextmanager
def _search_path(folders: Sequence[Path]) -> Iterator[None]:
    added = [str(folder) for folder in folders if str(folder) not in sys.path]
    sys.path.extend(added)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        for folder in added:
            sys.path.remove(folder)


@contextmanager
def _data_alias(spec: str) -> Iterator[None]:
    existing = PathFinder.find_spec(ALIAS)
    is_package = existing is not None and existing.origin is not None
    if is_package or ALIAS in sys.modules or spec.split(".")[0] == ALIAS:
        yield
        return
    alias = ModuleType(ALIAS, "The public names of alignment.data, under the name that PaddleNLP's examples use.")
    alias.__dict__.update({name: getattr(public, name) for name in public.__all__})
    sys.modules[ALIAS] = alias
    try:
        yield
    finally:
        if existing is not None:
            del sys.modules[ALIAS]
