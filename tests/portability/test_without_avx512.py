"""Doctor, an update of every trainer with each engine, and chat on an emulated processor that has AVX2 and no AVX-512.

Such are AMD's Zen 2 and 3 and most Intel desktops. One emulated process runs everything (``first_commands.py``).
"""

from __future__ import annotations

import json
import math
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

QEMU = shutil.which("qemu-x86_64")
SCRIPT = Path(__file__).parent / "first_commands.py"
MISSING = (
    "needs qemu-x86_64 on an x86-64 machine (Debian: apt-get install qemu-user)"
    if QEMU is None or platform.machine() != "x86_64"
    else ""
)
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(bool(MISSING), reason=MISSING),
]


@pytest.fixture(scope="module")
def found(tmp_path_factory, repo_root) -> dict:
    """What came of everything; a process that dies is an error with its last step."""
    folder = tmp_path_factory.mktemp("emulated")
    environment = {name: value for name, value in os.environ.items() if name != "MKL_DEBUG_CPU_TYPE"}
    done = subprocess.run(
        [QEMU, "-cpu", "Haswell-noTSX", sys.executable, str(SCRIPT), str(folder)],
        env={**environment, "PYTHONPATH": str(repo_root), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=1100,
        check=False,
    )
    assert done.returncode == 0, f"status {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return json.loads((folder / "found.json").read_text(encoding="utf-8"))


def test_the_processor_is_one_without_avx512(found):
    """The kernel of Paddle that assumes AVX-512 ends its process there, and the suite's kernels are those for AVX2."""
    assert found["fused_rms_norm"].startswith("was ended by SIGILL (Illegal instruction)")
    assert found["kernels"] in ("avx2", None)
    assert "MKL_DEBUG_CPU_TYPE=7" not in found["host"]


def test_doctor_computes_with_everything_and_says_that_it_can_run(found):
    printed = found["doctor"]["printed"]
    assert found["doctor"]["status"] == 0, printed
    assert "the suite can run here" in printed and "problem" not in printed


@pytest.mark.parametrize("run", ["sft", "rm", "ppo, fused", "ppo, eager"])
def test_an_update_gives_finite_numbers(found, run):
    record = found["updates"][run]
    numbers = [value for value in record.values() if isinstance(value, float)]
    assert record["step"] == 1 and len(numbers) >= 3 and all(map(math.isfinite, numbers)), record


def test_both_engines_give_the_same_update(found):
    fused, eager = (found["updates"][f"ppo, {engine}"] for engine in ("fused", "eager"))
    assert fused.keys() == eager.keys() and len(fused) > 15
    assert fused == pytest.approx(eager, rel=1e-3, abs=1e-5)


def test_chat_answers(found):
    assert found["answer"].endswith("\n")
