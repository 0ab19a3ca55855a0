"""Every CUDA source compiles for sm_80 and sm_90a without Paddle; nothing is run."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

COMPILER = shutil.which("nvcc")
FLAGS = ("-std=c++17", "-O1", "--fmad=false", "-Xcompiler", "-fPIC,-Wall", "-Werror", "all-warnings")
TARGETS = ("-gencode", "arch=compute_80,code=sm_80", "-gencode", "arch=compute_90a,code=sm_90a")
SOURCES = sorted(path.name for path in (Path(__file__).parents[3] / "csrc" / "cuda").glob("*.cu"))


def cublas_folder() -> list[str]:
    """Return the flag that finds cublasLt.h in an installed package, if one is needed and there."""
    site = Path(pytest.__file__).parents[1]
    return [f"-I{header.parent}" for header in sorted(site.glob("nvidia/cu*/include/cublasLt.h"))[:1]]


@pytest.mark.slow
@pytest.mark.skipif(COMPILER is None, reason="no nvcc on this machine")
@pytest.mark.parametrize("name", SOURCES)
def test_source_compiles_for_both_architectures(repo_root: Path, tmp_path: Path, name: str):
    command = [COMPILER, *FLAGS, *TARGETS, *cublas_folder()]
    if name == "matmul.cu":
        probe = subprocess.run(
            [*command, "-E", "-x", "cu", "-"], input="#include <cublasLt.h>\n", capture_output=True, text=True
        )
        if probe.returncode:
            pytest.skip("no cublasLt.h on this machine (package nvidia-cublas has it)")
    made = tmp_path / f"{name}.o"
    result = subprocess.run(
        [*command, "-c", str(repo_root / "csrc" / "cuda" / name), "-o", str(made)], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert made.stat().st_size > 0
