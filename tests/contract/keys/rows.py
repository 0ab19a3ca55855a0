"""What a row of the key table is, and where runs keep what several rows look at."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from alignment.loops.on_policy import OnPolicyLoop
from alignment.trainers.registered import TRAINERS
from tests.contract.keys.assembled import Run

SAME = object()
ALL = tuple(TRAINERS)
SUPERVISED = tuple(name for name in ALL if not TRAINERS[name].is_on_policy)
EIGHT_ROWS = {name: TRAINERS[name].small_run["train_datasets"].partition("/")[0] + "/test:8/-1" for name in ALL}
EVALUATED = {"eval_datasets": EIGHT_ROWS, "evaluation_strategy": "steps", "eval_steps": 3}


@dataclasses.dataclass(frozen=True)
class Row:
    """How one key is followed from the argument file to the number that is used."""

    key: str
    value: Any
    """What is given: no default. ``{policy}`` in a text is a file of the run's folder (see ``assembled.filled``).
    Here and below {trainer: value} where trainers differ."""
    observe: Callable[[Run], Any]
    """Returns what stands in the object that uses the key."""
    expected: Any = SAME
    """What that must be; left out: ``value``."""
    with_: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Keys without which this one would have no effect; None takes a key away from what all runs are given."""
    only: Sequence[str] = ALL
    """The trainers it has an effect in; where another one has the key, its declaration says that it has none there."""
    alone: bool = False
    """True: other rows' keys would change what is observed, so it has a run of its own."""

    def settings(self, trainer: str) -> dict[str, Any]:
        """Return the keys it gives to a run of ``trainer``."""
        chosen = {**self.with_, self.key: self.value}
        return {key: of_trainer(value, trainer) for key, value in chosen.items()}

    def wanted(self, trainer: str) -> Any:
        """Return what must be observed in a run of ``trainer``."""
        return of_trainer(self.value if self.expected is SAME else self.expected, trainer)


def of_trainer(value: Any, trainer: str) -> Any:
    """Return the value for ``trainer`` where they differ (None for one that is not named), else ``value``."""
    return value.get(trainer) if isinstance(value, dict) and set(value) <= set(ALL) else value


def group_rows(rows: Sequence[Row], trainer: str) -> Iterator[tuple[dict[str, Any], list[Row]]]:
    """Yield (keys, rows) for as few runs of ``trainer`` as can be: rows share one unless they contradict each other."""
    groups: list[tuple[dict[str, Any], list[Row]]] = []
    for row in rows:
        if trainer not in row.only:
            continue
        settings = row.settings(trainer)
        fitting = [g for g in groups if not row.alone and not g[1][0].alone and _agree(g[0], settings)]
        if fitting:
            fitting[0][0].update(settings)
            fitting[0][1].append(row)
        else:
            groups.append((settings, [row]))
    yield from groups


def _agree(given: Mapping[str, Any], settings: Mapping[str, Any]) -> bool:
    return all(key not in given or given[key] == value for key, value in settings.items())


def is_ppo(run: Run) -> bool:
    """Return whether the run learns from rollouts."""
    return isinstance(run.loop, OnPolicyLoop)


def plan(run: Run) -> Any:
    """Return PPO's plan of updates."""
    return run.loop.updater.plan


def held_out(run: Run) -> list[Any]:
    """Return the rows that are evaluated."""
    evaluation = run.evaluation
    return next(getattr(evaluation, name) for name in ("prompts", "pairs", "samples") if hasattr(evaluation, name))
