"""Settings that must be made in this process before Paddle is imported.

Paddle's CPU wheel contains an old MKL that takes a slow path on AMD processors, and it returns large tensors to the
system, so that each use causes page faults. Both cost several times the arithmetic and are fixed here. The environment
is read only here and in ``parallel``.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import os
import platform
import sys
import warnings
from pathlib import Path

_MALLOPT_SETTINGS = ((-4, 0), (-1, 2**31 - 1), (-2, 64 << 20))
"""(parameter, value): M_MMAP_MAX off, M_TRIM_THRESHOLD never, M_TOP_PAD 64 MiB."""

_PACKAGES = ("paddle", "numpy", "rich")
"""Packages without which no module of a run can be imported."""


def require_packages() -> None:
    """Exit with status 2 and one message if this Python lacks the packages of the suite."""
    missing = [name for name in _PACKAGES if name not in sys.modules and importlib.util.find_spec(name) is None]
    if missing:
        print(
            f"error: {sys.executable} has no {', '.join(missing)}: use the Python of the environment where the suite "
            "is installed (README.md says how to install it; python -m alignment doctor lists what is missing)",
            file=sys.stderr,
        )
        sys.exit(2)


def prepare_host() -> str:
    """Configure MKL, thread counts and the allocator for Paddle on a CPU; return one line that says what was done.

    Call it before ``import paddle``. Variables set by the user are left alone. The default is one thread, because two
    threads on shared cores were measured to be up to 1000 times slower than one; set ``OMP_NUM_THREADS`` if the cores
    are yours.
    """
    late = unheeded_settings()
    # Threads first: reading the processor's features imports numpy, whose BLAS reads them too.
    threads = [_default_to_one(name) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")]
    notes = [_set_mkl_path(_read_cpu_info()), *threads, _keep_freed_memory()]
    # Hide messages of Paddle's libraries below errors, of which every process prints dozens.
    os.environ.setdefault("GLOG_minloglevel", "2")
    # Paddle warns at every import that ccache is missing; nothing is compiled here.
    warnings.filterwarnings("ignore", message="No ccache found")
    if late:
        notes.append(f"paddle was imported before, so {', '.join(late)} have no effect in this process")
    return "; ".join(notes)


def unheeded_settings() -> list[str]:
    """Return the settings (``NAME=value``) that are missing although Paddle has already been imported.

    MKL_NUM_THREADS is not among them: without it MKL reads OMP_NUM_THREADS, which Paddle sets to 1 if missing.
    """
    if "paddle" not in sys.modules:
        return []
    wanted = {"MKL_DEBUG_CPU_TYPE": choose_mkl_path(*_read_cpu_info()), "OMP_NUM_THREADS": "1"}
    return [f"{name}={value}" for name, value in wanted.items() if value and name not in os.environ]


def num_threads() -> int:
    """Return the number of threads this process may use: ``OMP_NUM_THREADS``, default 1."""
    return max(1, int(os.environ.get("OMP_NUM_THREADS", "1").split(",")[0] or 1))


def choose_mkl_path(vendor: str, flags: frozenset[str]) -> str | None:
    """Return the value of MKL_DEBUG_CPU_TYPE for a processor; None if MKL chooses well by itself."""
    if vendor != "AuthenticAMD":
        return None
    if "avx512f" in flags:
        return "7"
    return "5" if "avx2" in flags else None


def _set_mkl_path(cpu: tuple[str, frozenset[str]]) -> str:
    name = "MKL_DEBUG_CPU_TYPE"
    if name in os.environ:
        return f"{name}={os.environ[name]} (as the environment says)"
    path = choose_mkl_path(*cpu)
    if path is None:
        return f"{name} not needed"
    os.environ[name] = path
    return f"{name}={path}"


def _default_to_one(name: str) -> str:
    origin = " (as the environment says)" if name in os.environ else ""
    return f"{name}={os.environ.setdefault(name, '1')}{origin}"


def _keep_freed_memory() -> str:
    """Tell glibc to keep freed memory; do nothing for other C libraries."""
    if platform.libc_ver()[0] != "glibc":
        return "allocator unchanged (not glibc)"
    libc = ctypes.CDLL(None)
    accepted = all([libc.mallopt(parameter, value) for parameter, value in _MALLOPT_SETTINGS])
    return "freed memory is kept" if accepted else "allocator unchanged (mallopt refused)"


def _read_cpu_info() -> tuple[str, frozenset[str]]:
    """Return (vendor, flags) of the first processor, empty if the system does not list them.

    Flags that the processor itself denies are removed: an emulator shows the host's list.
    """
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return "", frozenset()
    fields = {}
    for line in text.split("\n\n", 1)[0].splitlines():
        key, _, value = line.partition(":")
        fields[key.strip()] = value.strip()
    flags = frozenset(fields.get("flags", "").split())
    return fields.get("vendor_id", ""), flags - _denied_flags()


def _denied_flags() -> frozenset[str]:
    """Return which of avx2 and avx512f the processor lacks according to numpy's query of CPUID."""
    for module in ("numpy._core._multiarray_umath", "numpy.core._multiarray_umath"):
        try:
            features: dict[str, bool] = importlib.import_module(module).__cpu_features__
        except (ImportError, AttributeError):
            continue
        return frozenset(flag for flag in ("avx2", "avx512f") if features.get(flag.upper()) is False)
    return frozenset()
