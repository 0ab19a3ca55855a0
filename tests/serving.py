"""Servers in processes of their own."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def serving(*words: Any) -> Iterator[str]:
    """Run ``alignment serve`` with ``words`` at a free port; yields its address."""
    command = [sys.executable, "-m", "alignment", "serve", "--port", "0", "--device", "cpu", *map(str, words)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as server:
        said = ""
        try:
            for line in server.stdout:
                said += line
                if found := re.search(r"http://\S+:\d+", line):
                    yield found[0]
                    break
            else:
                raise AssertionError(said)
        finally:
            server.terminate()
            server.communicate(timeout=60)
