"""Running any trainer or tool of the suite in this process on what it must refuse."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import refusals
import runs

from alignment.trainers.registered import TRAINERS

TOOLS = ("chat", "export", "plan", "verify", "demo")
ANSWERED = {"input": "pack rope lamp map", "answer": "rope lamp map done"}
PAIR = {**ANSWERED, "other_answer": "rope um", "better": True}
PROMPT = {"input": "pack rope lamp map"}
GOOD_ROW = {"sft": ANSWERED, "rm": PAIR, "ppo": PROMPT}


class Bench(NamedTuple):
    """What cases are made of."""

    here: Path
    """A folder of the case's own, the current one while it runs."""
    policy: Path
    """A model folder."""
    reward: Path
    """The folder of a reward model."""
    run: Path
    """The output folder of an SFT run."""
    arguments: Mapping[str, Mapping[str, Any]]
    """Arguments of each trainer that work, without output_dir."""

    def copy(self, name: str = "m", *, reward: bool = False) -> Path:
        """Return a copy of a model folder."""
        shutil.copytree(self.reward if reward else self.policy, self.here / name)
        return self.here / name

    def write(self, name: str, content: Any) -> Path:
        """Write text, bytes or JSON to a file below ``here``."""
        path = self.here / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    def edit(self, path: Path, **keys: Any) -> None:
        """Set keys of a JSON file; None takes one away."""
        content = json.loads(path.read_text()) | keys
        path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


class Case(NamedTuple):
    """One bad input and what the answer must say."""

    name: str
    tool: str
    given: Any
    """Trainers: keys to change (None takes one away). Tools: the command line. ``{here}``, ``{policy}``, ``{reward}``
    and ``{run}`` stand for folders."""
    says: tuple[str, ...]
    prepare: Callable[[Bench], Any] | None = None


def answer(case: Case, bench: Bench) -> refusals.Done:
    """Run the case's tool and return what a process would have left."""
    if case.prepare is not None:
        case.prepare(bench)
    if case.tool in TRAINERS:
        changed = {**bench.arguments[case.tool], "output_dir": bench.here / "out", **_filled(case.given, bench)}
        kept = {key: value for key, value in changed.items() if value is not None}
        return refusals.run_here(case.tool, kept, bench.here)
    return _run_tool(case.tool, _filled(case.given, bench), bench.here)


def _run_tool(verb: str, argv: list[str], folder: Path) -> refusals.Done:
    """Run a tool as its command does."""
    from alignment.commands.main import main

    out, err, status = io.StringIO(), io.StringIO(), 0
    as_a_process = refusals.as_a_process(["alignment", verb, *argv], folder)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), as_a_process:
        try:
            main([verb, *argv])
        except SystemExit as leaving:
            status = int(leaving.code or 0)
    return refusals.Done(status, out.getvalue(), err.getvalue())


def _filled(given: Any, bench: Bench) -> Any:
    """Put the folders of ``bench`` into every text of ``given``."""
    if isinstance(given, str):
        for name in ("here", "policy", "reward", "run"):
            given = given.replace(f"{{{name}}}", str(getattr(bench, name)))
        return given
    if isinstance(given, list):
        return [_filled(item, bench) for item in given]
    return {key: _filled(value, bench) for key, value in given.items()} if isinstance(given, dict) else given


def rows(trainer: str, *bad: Any) -> Callable[[Bench], Path]:
    """Prepare ``rows.jsonl``: a good row and then ``bad`` ones (a string is written as it is)."""
    return lambda bench: refusals.write_rows(bench.here / "rows.jsonl", GOOD_ROW[trainer], *bad)


MY_ROWS = {"train_datasets": "jsonl:1:{here}/rows.jsonl"}
TOKENIZER = runs.TOKENIZER
