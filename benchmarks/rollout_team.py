"""The processes of ``rollout.py``: found, started, asked; a side that cannot run is absent, with the reason."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rollout_work import PROCESSES, SIDES
from side_process import KEPT_MEMORY, SideProcess

HERE = Path(__file__).resolve().parent
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
FIND_MODULES = "import importlib.util as u, sys; print(*[name for name in sys.argv[1:] if u.find_spec(name) is None])"


class Team:
    """The sides that can run on one model with one number of threads; a context manager that ends their processes."""

    def __init__(self, sides: Sequence[str], *, family: str, peers: Path | None, job: dict[str, Any]) -> None:
        """``peers`` holds an environment for each process by its name; ``job`` is ``rollout_worker.Job`` but sides.

        ``family`` is that of the model.
        """
        self.absent: dict[str, str] = {}
        """Why a side does not run, or ran no further."""
        self.versions: dict[str, dict[str, str]] = {}
        """What each process says of itself."""
        self._processes: dict[str, SideProcess] = {}
        self._wanted, self._family, self._peers, self._job = list(sides), family, peers, job

    def __enter__(self) -> Team:
        for name in PROCESSES:
            sides = [side for side in self._wanted if SIDES[side].process == name]
            if sides:
                self._open(name, sides)
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes.values():
            with contextlib.suppress(BrokenPipeError):  # of one that has died with a command unread
                process.__exit__()

    @property
    def sides(self) -> list[str]:
        """Those that run."""
        return [side for side in self._wanted if side not in self.absent]

    def ask(self, side: str, **command: Any) -> dict[str, Any] | None:
        """Return the answer of ``side``; None when it is absent, or its process ends now."""
        if side in self.absent:
            return None
        name = SIDES[side].process
        try:
            return self._processes[name].ask(variant=SIDES[side].variant, **command)
        except (SystemExit, BrokenPipeError) as error:
            rows = len(command["limits"])
            gone = [other for other in self.sides if SIDES[other].process == name]
            self.absent |= dict.fromkeys(gone, f"its process ended while {side} had {rows} rows: {error}")
            return None

    def _open(self, name: str, sides: Sequence[str]) -> None:
        if self._family not in PROCESSES[name].families:
            self.absent |= dict.fromkeys(sides, f"{PROCESSES[name].script} has no weights of a {self._family} model")
            return
        python = find_python(name, self._peers)
        missing = missing_modules(python, name)
        if missing:
            reason = f"no {missing} here; `rollout_environments.py FOLDER {name}` and `--peers FOLDER` bring it"
            self.absent |= dict.fromkeys(sides, reason)
            return
        job = json.dumps({**self._job, "variants": [SIDES[side].variant for side in sides]})
        environment = {"GLIBC_TUNABLES": KEPT_MEMORY, **dict.fromkeys(THREAD_VARIABLES, str(self._job["threads"]))}
        command = [python, str(HERE / PROCESSES[name].script), job]
        try:
            process = SideProcess(f"the process of {name}", command, environment=environment)
        except SystemExit as error:
            self.absent |= dict.fromkeys(sides, str(error))
            return
        self._processes[name] = process
        self.versions[name] = process.description["versions"]
        failed = process.description["failed"]
        self.absent |= {side: failed[SIDES[side].variant] for side in sides if SIDES[side].variant in failed}


def find_python(name: str, peers: Path | None) -> str:
    """Return the interpreter in the environment of process ``name``; without one, this interpreter."""
    own = peers / name / "bin" / "python" if peers else None
    return str(own) if own and own.exists() else sys.executable


def missing_modules(python: str, name: str) -> str:
    """Return the modules that process ``name`` needs and ``python`` lacks; none of them is imported."""
    command = [python, "-c", FIND_MODULES, *PROCESSES[name].modules]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
