"""What a command of another suite becomes: one step or several, each with arguments of its own.

Keys that are called otherwise here are in ``advice`` and ``translations``, and with the keys themselves. A program adds
only what these cannot say: values that depend on other flags, its defaults, and flags of its own engine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from alignment.arguments.coerce import coerce
from alignment.arguments.sources import BARE
from alignment.errors import ArgumentError
from alignment.fields import NO_CONSTRAINT

_TRUE, _FALSE = ("true", "t", "yes", "y", "1", "on"), ("false", "f", "no", "n", "0", "off", "none", "")


class NoNeed(NamedTuple):
    """A flag that asks for something that happens anyway, or that does not exist here."""

    why: str


class NoCounterpart(NamedTuple):
    """A flag that asks for something that cannot be had here."""

    advice: str


class ReadWith(NamedTuple):
    """A flag whose value becomes part of what another flag is converted to."""

    flag: str
    how: str = ""


def is_true(value: Any) -> bool:
    """Read a switch in the spellings of argparse, Hydra, transformers and safe-rlhf; else an ArgumentError."""
    word = "true" if value is BARE else str(value).lower()
    if word not in (*_TRUE, *_FALSE):
        raise ArgumentError(f"expected true or false, got {value!r}")
    return word in _TRUE


class Flags:
    """The flags of a command, with the defaults of its program."""

    def __init__(self, given: Mapping[str, Any], defaults: Mapping[str, Any], *, processes: int) -> None:
        self.given = given
        self.processes = processes
        """Processes with rows of their own."""
        self._all = {**defaults, **given}

    def get(self, name: str, default: Any = None) -> Any:
        """Return the value of a flag, or its default."""
        return self._all.get(name, default)

    def number(self, name: str, default: float) -> float:
        """Return the value of a flag as a number; an ArgumentError names it."""
        try:
            return coerce(self._all.get(name, default), float, NO_CONSTRAINT)
        except ValueError as error:
            raise ArgumentError(f"--{name}: {error}") from None

    def is_on(self, name: str) -> bool:
        """Tell whether a switch is on."""
        return is_true(self._all.get(name, False))


Convert = Callable[[Any, Flags], "Mapping[str, Any] | NoNeed"]
"""Returns our keys and values for the value of a flag; ValueError if it has no counterpart."""
Answer = NoNeed | NoCounterpart | ReadWith | Convert | str
"""What becomes of a flag; text is our key. Our key of the same name, or a translation, goes before the first three."""
Answers = Mapping[str, Answer]
_NOTHING: Mapping[str, Any] = MappingProxyType({})


class PeerStep(NamedTuple):
    """One of our commands for a command of another suite."""

    target: str
    """``train TRAINER``, or the name of another command."""
    answers: Answers
    defaults: Mapping[str, Any] = _NOTHING
    """What the program uses where a flag is not given, under the names of its flags."""
    keys: Mapping[str, Any] = _NOTHING
    """What the program always does, under our keys."""
    like: str = ""
    """The preset whose values for PPO are written out, where the step has the key (empty: none)."""
    notes: Mapping[str, str] = _NOTHING
    """What the program always does and cannot be had here, with advice."""
    takes: frozenset[str] | None = None
    """The flags that concern it; None: those that no other step of the program takes alone."""


class Program(NamedTuple):
    """A command of another suite."""

    suite: str
    name: str
    pattern: str
    """Regular expression that matches the word of a command line that names it."""
    steps: Callable[[Mapping[str, Any]], Sequence[PeerStep]]
    """Returns what it becomes with these flags."""
    first_word: str = ""
    """The word that follows the name, as in ``trl dpo``."""


def always(*steps: PeerStep) -> Callable[[Mapping[str, Any]], Sequence[PeerStep]]:
    """Return a program's steps that do not depend on its flags."""
    return lambda given: steps


def jsonl(key: str) -> Convert:
    """Name files, folders or hub names as ``jsonl`` datasets; ``max_samples`` takes that many rows of one of them."""

    def convert(value: Any, flags: Flags) -> Mapping[str, Any]:
        if value in (None, ""):
            return {}
        names = [name.strip() for name in (value if isinstance(value, list) else str(value).split(","))]
        rows = flags.given.get("max_samples", flags.given.get("max_training_samples"))
        share = "1.0" if rows in (None, "-1") or key.startswith("eval") else f"{int(float(rows))}/-1"
        if share != "1.0" and len(names) > 1:
            raise ValueError(f"{len(names)} datasets with max_samples: write name:proportion:path for each")
        return {key: ",".join(name if name.count(":") == 2 else f"jsonl:{share}:{name}" for name in names)}

    return convert


def accumulated(rows: str, micro: str) -> Convert:
    """Convert the rows of an update over all processes to micro-batches of one process."""

    def convert(value: Any, flags: Flags) -> Mapping[str, Any]:
        parts = int(flags.number(micro, 1)) * flags.processes
        whole, rest = divmod(int(flags.number(rows, 1)), parts)
        if rest or not whole:
            raise ValueError(
                f"{value} rows of an update are no multiple of {micro} * processes = {parts}: give --processes"
            )
        return {"gradient_accumulation_steps": whole}

    return convert


def stage_of(value: Any, flags: Flags) -> Mapping[str, Any]:
    """Read the stage of ZeRO from the name of a DeepSpeed file, as in zero3.yaml or deepspeed_2.json."""
    digits = [char for char in str(value).rpartition("/")[2] if char in "0123"]
    if len(digits) != 1:
        raise ValueError("its name does not tell the stage of ZeRO: give sharding=stage1, stage2 or stage3")
    return {} if digits[0] == "0" else {"sharding": f"stage{digits[0]}"}


def half(value: Any, flags: Flags) -> Mapping[str, Any]:
    """Convert bf16, which keeps float32 masters in DeepSpeed."""
    return {"bf16": True, "fp16_opt_level": "O2"} if is_true(value) else {}


def switch(**keys: Any) -> Convert:
    """Return the conversion of a switch to ``keys``."""
    return lambda value, flags: keys if is_true(value) else {}


def steps_or_never(key: str, strategy: str) -> Convert:
    """Convert a number of updates, where -1 and huge numbers mean never, to our key and ``strategy``."""

    def convert(value: Any, flags: Flags) -> Mapping[str, Any]:
        steps = float(value)
        return {strategy: "no"} if steps < 0 or steps >= 99999 else {strategy: "steps", key: int(steps)}

    return convert


DRAWN = "so many rows are drawn; of a smaller dataset some are repeated"
"""What happens to a limit on the number of rows."""
TRACKED: Answers = MappingProxyType(
    {
        "use_wandb": lambda value, flags: {"report_to": "wandb"},
        "use_tensorboard": lambda value, flags: {"report_to": "tensorboard"},
        "wandb_run_name": "run_name",
        "wandb_org": NoCounterpart("set WANDB_ENTITY in the environment"),
        "wandb_group": NoCounterpart("set WANDB_RUN_GROUP in the environment"),
        "wandb_project": NoCounterpart("the project is called alignment"),
    }
)
"""Flags of boards; a token is never copied."""
