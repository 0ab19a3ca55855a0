"""Find this machine's C++ compiler and OpenMP runtime, and identify its processor."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import platform
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from alignment.telemetry.exit_status import describe_exit

COMPILERS = ("g++", "clang++", "c++")
"""Programs searched for on PATH, in this order, after the one that the user names."""

_OPENMP_NAME = "libiomp5.so"
_INFO_TIMEOUT = 60.0


@dataclass(frozen=True, slots=True)
class Compiler:
    """A working C++ compiler."""

    program: str
    version: str
    """First line of ``--version``."""


def find_compiler(preferred: str = "") -> Compiler | None:
    """Return the first compiler that answers ``--version``; ``preferred`` (a name or path) is tried first."""
    for name in filter(None, (preferred, *COMPILERS)):
        found = ask_version(name)
        if found is not None:
            program, lines = found
            return Compiler(program, (lines or ["unknown version"])[0])
    return None


def ask_version(name: str) -> tuple[str, list[str]] | None:
    """Return the path of the program ``name`` and the lines of its ``--version``; None if it does not work."""
    program = shutil.which(name)
    if program is None:
        return None
    try:
        done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=_INFO_TIMEOUT)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return (program, done.stdout.splitlines()) if done.returncode == 0 else None


@functools.cache
def find_openmp() -> Path | None:
    """Return Paddle's OpenMP runtime, without importing Paddle; None if there is none.

    A second runtime in the process would start its own threads in addition to Paddle's.
    """
    spec = importlib.util.find_spec("paddle")
    if spec is None or spec.origin is None:
        return None
    library = Path(spec.origin).parent / "libs" / _OPENMP_NAME
    return library if library.is_file() else None


@functools.cache
def preload_openmp() -> None:
    """Load Paddle's OpenMP runtime, so that the kernel library finds it by name wherever Paddle is installed."""
    library = find_openmp()
    if library is not None:
        ctypes.CDLL(str(library))


def openmp_link_flags() -> list[str]:
    """Return the flags that link the kernels to Paddle's runtime, or to the compiler's own without Paddle."""
    library = find_openmp()
    return ["-fopenmp"] if library is None else [f"-L{library.parent}", f"-l:{library.name}"]


def processor() -> str:
    """Return the machine's architecture and, if the system lists them, the flags of its first processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        lines = []
    names = ("flags", "Features")  # x86-64 and aarch64
    flags = next((line.partition(":")[2] for line in lines if line.partition(":")[0].strip() in names), "")
    return f"{platform.machine()} {' '.join(sorted(flags.split()))}"


def run_logged(command: Sequence[str], log: Path) -> str | None:
    """Run ``command`` and append it with its output to ``log``; return None, or on failure the most relevant line."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    with log.open("a", encoding="utf-8") as file:
        file.write(f"$ {' '.join(command)}\n{done.stdout}")
    if done.returncode == 0:
        return None
    if done.returncode < 0:
        return f"{command[0]} {describe_exit(done.returncode)}"
    lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    telling = (line for line in lines if "error: " in line or "undefined reference" in line)
    return next(telling, lines[-1] if lines else f"exit status {done.returncode}")
