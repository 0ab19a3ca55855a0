"""The base class of raw datasets, and their registry by ``NAME``.

Defining a subclass with a ``NAME`` registers it::

    class MyDataset(RawDataset):
        NAME = "my-dataset"
        ALIASES = ("mine",)
        def __init__(self, path=None): ...
        def __getitem__(self, index): return RawSample(input="...", answer="...")
        def __len__(self): ...
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import sys
import traceback
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from alignment.data.raw.mixing import split_rows
from alignment.errors import DataError, UserError
from alignment.records import RawSample
from alignment.registry import Registry


@dataclass
class _RegisteredClass:
    """A registry slot, in which a reloaded module replaces its class."""

    dataset_class: type[RawDataset]


_REGISTRY: Registry[_RegisteredClass] = Registry("dataset", DataError)


class RawDataset(ABC):
    """A sequence of ``RawSample``; the module docstring shows what a subclass provides."""

    NAME: ClassVar[str]
    ALIASES: ClassVar[Sequence[str]] = ()
    OPTIONS: ClassVar[Sequence[str]] = ()
    """Constructor arguments that keys of a run (``input_key``, ...) set for every dataset that lists them."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "NAME" in cls.__dict__:
            _register(cls)
        elif "ALIASES" in cls.__dict__:
            raise DataError(f"dataset class {_identity(cls)} has ALIASES but no NAME")

    @abstractmethod
    def __getitem__(self, index: int) -> RawSample:
        """Return row ``index``."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of rows."""

    def __iter__(self) -> Iterator[RawSample]:
        return (self[index] for index in range(len(self)))

    def describe_row(self, index: int) -> str:
        """Describe where row ``index`` comes from, for messages; datasets read from files add the file and line."""
        return f"dataset {getattr(self, 'NAME', type(self).__name__)!r}, row {index}"

    @classmethod
    def accepted_options(cls) -> frozenset[str]:
        """Return the ``OPTIONS`` that go with the constructor; a subclass with its own constructor lists its own."""
        for owner in cls.__mro__:
            if "OPTIONS" in owner.__dict__:
                return frozenset(owner.__dict__["OPTIONS"])
            if "__init__" in owner.__dict__:
                break
        return frozenset()

    def notes(self) -> list[str]:
        """Return log lines about how the rows were read; none by default."""
        return []

    def split_train_test(
        self, split_ratio: float = 0.2, shuffle: bool = True, seed: int = 42
    ) -> tuple[RawDataset, RawDataset]:
        """Return (train, test) views; the test part holds ``round(len * split_ratio)`` rows."""
        train, test = split_rows(len(self), split_ratio, shuffle=shuffle, seed=seed)
        return RowsOf(self, train.tolist()), RowsOf(self, test.tolist())

    @classmethod
    def load(cls, name: str, /, *args: Any, **kwargs: Any) -> RawDataset:
        """Build the dataset registered as ``name`` (NAME or alias); see ``canonical_name`` for unknown names."""
        dataset_class = dataset_class_of(name)
        signature = inspect.signature(dataset_class)
        try:
            signature.bind(*args, **kwargs)
        except TypeError as error:
            raise DataError(
                f"dataset {name!r} ({_identity(dataset_class)}): {error}; its constructor takes {signature}"
            ) from error
        return dataset_class(*args, **kwargs)

    make = load


class RowsOf(RawDataset):
    """Some rows of another raw dataset, in a given order."""

    def __init__(self, source: RawDataset, rows: Sequence[int]) -> None:
        self._source = source
        self._rows = list(rows)

    def __getitem__(self, index: int) -> RawSample:
        return self._source[self._rows[index]]

    def __len__(self) -> int:
        return len(self._rows)

    def describe_row(self, index: int) -> str:
        """Describe the row in the underlying dataset."""
        return self._source.describe_row(self._rows[index])


def canonical_name(name: str) -> str:
    """Return the NAME for a NAME or alias; an unknown one is a ``DataError`` with near matches."""
    _discover()
    return _REGISTRY.canonical(name)


def is_registered(name: str) -> bool:
    """Tell whether ``name`` is the NAME or an alias of a dataset."""
    _discover()
    return name in _REGISTRY


def dataset_class_of(name: str) -> type[RawDataset]:
    """Return the class registered as ``name``; an unknown name is a ``DataError`` with near matches."""
    return _REGISTRY[canonical_name(name)].dataset_class


def _discover() -> None:
    """Import every module of ``alignment.data.sources``, which registers its datasets."""
    package = importlib.import_module("alignment.data.sources")
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        if module.name in sys.modules:
            continue
        try:
            importlib.import_module(module.name)
        except UserError:
            raise
        except Exception as error:  # the file may be a user's: report whatever its code raises
            frame = traceback.extract_tb(error.__traceback__)[-1]
            raise DataError(
                f"module {module.name} cannot be imported: {type(error).__name__}: {error} ({frame.filename}, line "
                f"{frame.lineno})"
            ) from error


def _register(cls: type[RawDataset]) -> None:
    name, aliases = cls.__dict__["NAME"], cls.__dict__.get("ALIASES", ())
    if isinstance(aliases, str):
        raise DataError(f"dataset class {_identity(cls)}: ALIASES must be a tuple of names, got the string {aliases!r}")
    for key in (name, *aliases):
        if not isinstance(key, str) or not key:
            raise DataError(f"dataset class {_identity(cls)}: name {key!r} must be a non-empty string")
        if key in _REGISTRY and _identity(_REGISTRY[key].dataset_class) != _identity(cls):
            raise DataError(
                f"dataset name {key!r} of class {_identity(cls)} is already taken by class "
                f"{_identity(_REGISTRY[key].dataset_class)}"
            )
    entry = _REGISTRY[name] if name in _REGISTRY else _RegisteredClass(cls)
    entry.dataset_class = cls
    _REGISTRY.register(name, entry, aliases)


def _identity(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
