"""One side of a comparison in a process of its own, so that MKL settings and OpenMP runtimes do not mix."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

KEPT_MEMORY = "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=2147483647:glibc.malloc.top_pad=67108864"
"""What ``prepare_host`` sets through mallopt, as a tunable for a process that is not ours."""


class SideProcess:
    """A worker behind its pipes, one JSON line a message; a context manager that ends it."""

    def __init__(self, name: str, command: Sequence[str], *, environment: Mapping[str, str]) -> None:
        """Start ``command`` and wait for its first line, which describes it."""
        self._name = name
        self._process = subprocess.Popen(
            list(command), env={**os.environ, **environment}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.description: dict[str, str] = self._read()

    def __enter__(self) -> SideProcess:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(BrokenPipeError):  # it has ended, and has said why
            self._process.stdin.close()
        self._process.wait()

    def ask(self, **command: Any) -> dict[str, Any]:
        """Send a command and return the answer."""
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self._name} ended with status {self._process.wait()}; see its output above")
        return json.loads(line)
