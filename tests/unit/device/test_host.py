"""Settings made before Paddle is imported, in a fresh process each."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from alignment.device import host
from alignment.device.host import choose_mkl_path

ROOT = Path(__file__).parents[3]
NAMES = ("MKL_DEBUG_CPU_TYPE", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


def run(code, **environment):
    clean = {key: value for key, value in os.environ.items() if key not in NAMES}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**clean, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return done.stdout


PRINT = "import os, sys; from alignment.device.host import prepare_host; print(prepare_host()); "


@pytest.mark.parametrize(
    ("vendor", "flags", "path"),
    [
        ("AuthenticAMD", {"avx2", "avx512f"}, "7"),
        ("AuthenticAMD", {"avx2"}, "5"),
        ("AuthenticAMD", {"sse2"}, None),
        ("GenuineIntel", {"avx2", "avx512f"}, None),
        ("", set(), None),
    ],
)
def test_mkl_path_by_processor(vendor, flags, path):
    assert choose_mkl_path(vendor, frozenset(flags)) == path


@pytest.mark.parametrize(
    ("answer", "path"), [({"AVX2": True, "AVX512F": True}, "7"), ({"AVX2": True, "AVX512F": False}, "5"), ({}, "7")]
)
def test_an_emulated_processor_is_asked_itself(monkeypatch, tmp_path, answer, path):
    """Under qemu-x86_64 /proc/cpuinfo is the host's, and MKL's AVX-512 path ends the process with SIGILL."""
    listed = tmp_path / "cpuinfo"
    listed.write_text("vendor_id\t: AuthenticAMD\nflags\t\t: fpu avx2 avx512f\n\nvendor_id\t: Other\n")
    monkeypatch.setattr(host, "Path", lambda _: listed)
    monkeypatch.setattr(host.importlib, "import_module", lambda _: SimpleNamespace(__cpu_features__=answer))
    assert choose_mkl_path(*host._read_cpu_info()) == path


def test_numpy_says_what_the_processor_has():
    """The attribute is numpy's own; without it an emulator is not noticed."""
    import numpy

    core = importlib.import_module("numpy._core" if numpy.__version__ >= "2" else "numpy.core")
    assert {"AVX2", "AVX512F"} <= set(core._multiarray_umath.__cpu_features__)


def test_paddle_is_not_imported_and_threads_default_to_one():
    out = run(PRINT + "print('paddle' in sys.modules, os.environ['OMP_NUM_THREADS'], os.environ['MKL_NUM_THREADS'])")
    assert out.splitlines()[-1] == "False 1 1"
    assert "OMP_NUM_THREADS=1;" in out


def test_what_the_user_set_stays():
    out = run(PRINT + "print(*(os.environ[n] for n in sorted(os.environ) if n.startswith(('MKL', 'OMP'))))",
              MKL_DEBUG_CPU_TYPE="4", OMP_NUM_THREADS="3", MKL_NUM_THREADS="2")  # fmt: skip
    assert out.splitlines()[-1] == "4 2 3"
    assert "MKL_DEBUG_CPU_TYPE=4 (as the env" in out and "OMP_NUM_THREADS=3 (as the env" in out


def test_an_early_import_of_paddle_is_reported():
    out = run("import sys; sys.modules['paddle'] = None; " + PRINT)
    assert "paddle was imported before" in out


@pytest.mark.parametrize("words", [["alignment/sft/run_sft.py"], ["-m", "alignment", "train", "sft"]])
def test_a_python_without_the_packages_is_told_in_one_line(words):
    # -S leaves out site-packages, -E the variables of the environment.
    done = subprocess.run([sys.executable, "-E", "-S", *words, "x.json"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith(f"error: {sys.executable} has no paddle, numpy, rich: use the Python of the environ")
    assert done.stderr.count("\n") == 1
