"""What a loop has done: for each step what it was made from and what it made, in ``state.json``.

The file says nothing of times and places, so that it is the same however often a loop was interrupted.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from alignment.errors import UserError
from alignment.fields import show_value
from alignment.telemetry.files import replace_file

STATE_FILE = "state.json"


class MadeFrom(NamedTuple):
    """What the result of a step depends on."""

    keys: Mapping[str, Any]
    """Its keys, as JSON values."""
    inputs: Mapping[str, str | None]
    """Checksum of each file or folder that it reads, by its name in messages; None: it is not there."""


class LoopState:
    """The steps of a loop that are done, and the one that was begun."""

    def __init__(self, folder: Path) -> None:
        """Read ``folder/state.json``, if it is there; UserError if it is damaged."""
        self._path = folder / STATE_FILE
        self.plan: list[str] = []
        self.done: dict[str, Any] = {}
        self.begun: dict[str, Any] = {}
        if self._path.exists():
            try:
                content = json.loads(self._path.read_text(encoding="utf-8"))
                self.plan, self.done, self.begun = content["plan"], content["done"], content["begun"]
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(
                    f"{self._path} is damaged ({error}): delete it to begin anew, or name another output_dir"
                ) from None

    def set_plan(self, names: Sequence[str]) -> None:
        """Keep what is planned; records of steps that are not go."""
        self.plan = list(names)
        self.done = {name: self.done[name] for name in names if name in self.done}
        self.begun = {name: self.begun[name] for name in names if name in self.begun}
        self._write()

    def begin(self, name: str, made_from: MadeFrom) -> bool:
        """Record that a step begins; return whether it had begun before from the same things."""
        record = _record(made_from)
        continues = self.begun.get(name) == record
        self.done.pop(name, None)
        self.begun = {name: record}
        self._write()
        return continues

    def finish(self, name: str, made_from: MadeFrom, outputs: Mapping[str, str | None]) -> None:
        """Record that a step is done and what it made."""
        self.begun = {}
        self.done[name] = {**_record(made_from), "outputs": dict(outputs)}
        self._write()

    def why_again(self, name: str, made_from: MadeFrom, outputs: Mapping[str, str | None]) -> str | None:
        """Say why a step must be done: "" if it never was; None if it is done and nothing has changed since."""
        if name not in self.done:
            return ""
        before, now = self.done[name], _record(made_from)
        reasons = [
            *_changed_keys(before["keys"], now["keys"]),
            *(f"{label} changed" for label in _differing(before["inputs"], now["inputs"])),
            *(
                f"its output {label} {'is gone' if outputs.get(label) is None else 'was changed'}"
                for label in _differing(before["outputs"], dict(outputs))
            ),
        ]
        return "; ".join(reasons) or None

    def _write(self) -> None:
        done = {name: self.done[name] for name in self.plan if name in self.done}
        content = {"plan": self.plan, "done": done, "begun": self.begun}
        replace_file(self._path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def _record(made_from: MadeFrom) -> dict[str, Any]:
    return json.loads(json.dumps({"keys": dict(made_from.keys), "inputs": dict(made_from.inputs)}))


def _changed_keys(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [f"{key} was {_show(before, key)} and is {_show(now, key)}" for key in _differing(before, now)]


def _differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [key for key in {**before, **now} if before.get(key) != now.get(key) or (key in before) != (key in now)]


def _show(values: Mapping[str, Any], key: str) -> str:
    if key not in values:
        return "not given"
    value = values[key]
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, (list, dict)) else show_value(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
