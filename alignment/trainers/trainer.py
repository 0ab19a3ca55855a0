"""The description of a trainer for everything that lists, starts, documents or checks trainers."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from alignment.arguments.groups import Groups
from alignment.arguments.parsed import Parsed
from alignment.arguments.parser import Check, Written, parse_arguments


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """An entry of ``TRAINERS``. Its package has ``arguments`` (``GROUPS``, ``CHECKS``) and ``build`` (``train``).

    Both are imported only when needed: neither listing trainers nor reading arguments needs Paddle.
    """

    name: str
    """Its name on the command line and in file names: ``config/tiny/NAME_argument.json``."""
    label: str
    """Its name in tables."""
    title: str
    """Its name in headings."""
    package: str
    door: str | None = None
    """Its script, relative to the repository root; None: it is started only by name."""
    models: tuple[str, ...]
    """The folders that a run may export, the trained policy or score model first."""
    is_on_policy: bool = False
    """Whether it generates the responses that it trains on."""
    small_run: Mapping[str, Any]
    """Arguments of a small run on shipped data, from the models ``actor`` and ``reward`` in the current folder."""
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Label to changes of ``small_run``: what it can train besides, for the comparison of layouts."""

    @property
    def model_keys(self) -> frozenset[str]:
        """The keys that name the models a run starts from."""
        return frozenset(key for key in self.small_run if key.endswith("model_name_or_path"))

    @property
    def groups(self) -> Groups:
        """Its argument groups."""
        return self._module("arguments").GROUPS

    @property
    def checks(self) -> tuple[Check, ...]:
        """The checks of combinations of its arguments."""
        return self._module("arguments").CHECKS

    def parse(self, written: Written) -> Parsed:
        """Parse its arguments; an ArgumentError names every problem."""
        return parse_arguments(self.groups, written, checks=self.checks)

    def train(self, written: Written, *, host: str, observe: Callable[[Any], None] | None = None) -> None:
        """Train from the arguments to the exported models.

        ``host`` is the result of ``prepare_host``; ``observe`` is called with every Experience of an on-policy run.
        """
        options = {"observe": observe} if self.is_on_policy else {}
        self._module("build").train(written, host=host, **options)

    def _module(self, name: str) -> Any:
        return importlib.import_module(f"{self.package}.{name}")


@dataclass(frozen=True, kw_only=True)
class OfflineTrainer(Trainer):
    """A trainer with a single offline objective: the entry of its name in ``objectives.OBJECTIVES``, whose arguments
    are in ``offline_arguments.KEYS``.
    """

    package: str = "alignment.trainers"
    models: tuple[str, ...] = ("policy",)

    @property
    def groups(self) -> Groups:
        """Its argument groups."""
        return self._module("offline_arguments").objective_groups(self.name)

    @property
    def checks(self) -> tuple[Check, ...]:
        """The checks of combinations of its arguments."""
        return self._module("offline_arguments").objective_checks(self.name)

    def train(self, written: Written, *, host: str, observe: Callable[[Any], None] | None = None) -> None:
        """Train from the arguments to the exported model; see ``Trainer.train``."""
        self._module("offline").train_objective(self.name, self.parse(written), host=host)


@dataclass(frozen=True, kw_only=True)
class PreferenceTrainer(OfflineTrainer):
    """A trainer that adds only a loss on the log-probs of preferred and rejected answers."""

    algorithm: str
    """``module:NAME`` of its ``PreferenceAlgorithm``."""
    small_run: Mapping[str, Any] = field(
        default_factory=lambda: {
            "train_datasets": "packing-preference/train:200/-1",
            "model_name_or_path": "actor",
        }
    )

    def load_algorithm(self) -> Any:
        """Return its ``PreferenceAlgorithm``."""
        module, _, name = self.algorithm.partition(":")
        return getattr(importlib.import_module(module), name)
