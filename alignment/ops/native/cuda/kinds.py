"""Compile csrc/cuda with nvcc for GPUs, or with a C++ compiler for the host (for its tests)."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

from alignment.ops.native import build, toolchain
from alignment.ops.native.build import KernelBuildError, Kind
from alignment.ops.native.toolchain import Compiler

_NVCC_PLACES = ("nvcc", "/usr/local/cuda/bin/nvcc")
_SOURCES = (".cu", ".cc", ".h", ".sh")


def find_nvcc() -> Compiler:
    """Return the nvcc on PATH or in CUDA's usual folder; KernelBuildError if none works."""
    for place in _NVCC_PLACES:
        program, lines = toolchain.ask_version(place) or ("", [])
        releases = [line for line in lines if "release" in line]
        if releases:
            return Compiler(program, releases[0])
    raise KernelBuildError(f"no nvcc: none of {', '.join(_NVCC_PLACES)} runs")


def source_folder() -> Path:
    """Return the folder of the sources, in an installed wheel or in a checkout; KernelBuildError if there is none."""
    folders = (Path(__file__).parents[1] / "csrc" / "cuda", Path(__file__).parents[4] / "csrc" / "cuda")
    folder = next((folder for folder in folders if (folder / "build.sh").is_file()), None)
    if folder is None:
        raise KernelBuildError("the CUDA sources are not installed")
    return folder


def _digest() -> str:
    folder, digest = source_folder(), hashlib.sha256()
    header = folder.parent / "core" / "alignment_core.h"
    for path in [header, *sorted(path for path in folder.rglob("*") if path.suffix in _SOURCES)]:
        digest.update(f"\n{path.name} {path.stat().st_size}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _key(compiler: Compiler, *others: str) -> str:
    return hashlib.sha256(repr((compiler, sys.prefix, *others)).encode()).hexdigest()[:16]


def _key_with_cublas(compiler: Compiler) -> str:
    """Return the key of a library that is linked to cuBLASLt: a build for another version of it must not be used."""
    done = subprocess.run(_command("--cublas", NVCC=compiler.program), capture_output=True, text=True)
    return _key(compiler, done.stdout)


def _command(*mode: str, **programs: str) -> list[str]:
    variables = [f"{name}={program}" for name, program in (*programs.items(), ("PYTHON", sys.executable))]
    return ["env", *variables, "sh", str(source_folder() / "build.sh"), *mode]


def _build(target: Path, log_file: Path, *mode: str, **programs: str) -> None:
    problem = toolchain.run_logged(_command(*mode, str(target), **programs), log_file)
    if problem:
        raise KernelBuildError(f"compiling the CUDA kernels failed: {problem} (all messages: {log_file})")


def _compile(target: Path, compiler: Compiler, log_file: Path) -> None:
    _build(target, log_file, NVCC=compiler.program)


def _compile_emulated(target: Path, compiler: Compiler, log_file: Path) -> None:
    _build(target, log_file, "--emulated", CXX=compiler.program)


CUDA = Kind("cuda", "CUDA kernels", _digest, find_nvcc, _key_with_cublas, _compile)
"""For GPUs of compute capability 8.0 and above."""
EMULATED = Kind("emulated", "emulated CUDA kernels", _digest, build.find_compiler, _key, _compile_emulated)
"""For this CPU: every CUDA thread is a fiber, which is slow. For tests, in a checkout only."""
