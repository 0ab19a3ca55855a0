"""The files of csrc/core that make up the kernel library, and their flags; csrc/core/README.md has the same table."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

COMMON_FLAGS = ("-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-fopenmp", "-ffp-contract=off", "-Wno-psabi")
"""No -ffast-math and no implicit fused operations: a row's results must not depend on its neighbours.

-Wno-psabi: vectors wider than registers are passed only to inlined functions, so the calling convention is irrelevant.
"""
LINK_FLAGS = ("-shared", "-Wl,--no-undefined")
"""A symbol that the OpenMP runtime lacks is an error at build time, not at the first call."""

PER_ISA = ("kernels.cc", "sampler_kernels.cc", "training_kernels.cc")
"""Compiled once for each instruction set."""
ONCE = (
    *("dispatch.cc", "model.cc", "parameters.cc", "weights.cc", "request.cc", "forward.cc"),
    *("sampler.cc", "philox.cc", "training.cc", "update.cc"),
)
"""Compiled once, for every processor of the architecture."""
_SELFTEST = "selftest.cc"
"""The name ending of test programs, which are linked with the library's objects."""

_AVX512 = ("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx2", "-mfma")
_X86_FLAGS = {
    "scalar": (),
    "avx2": ("-mavx2", "-mfma", "-mf16c"),
    "avx512": _AVX512,
    "avx512bf16": ("-mavx512bf16", *_AVX512),
    "avx512amx": ("-mamx-tile", "-mamx-bf16", "-mavx512bf16", *_AVX512),
}
ISA_FLAGS: dict[str, dict[str, tuple[str, ...]]] = {
    "x86_64": _X86_FLAGS,
    "aarch64": {"scalar": (), "neon": ()},
}
"""Flags by architecture and instruction set."""
_SAME_AS_WIDER = {
    (name, isa) for name in ("sampler_kernels.cc", "training_kernels.cc") for isa in ("avx512bf16", "avx512amx")
}
"""Not compiled: sampler and training use the avx512 kernels there."""


class TranslationUnit(NamedTuple):
    """One object file to compile."""

    source: Path
    flags: tuple[str, ...]
    stem: str
    """Name of the object without its suffix."""


def find_sources() -> Path | None:
    """Return the folder of the sources: beside this file in an installed wheel, or csrc/core in a checkout."""
    folders = (Path(__file__).parent / "csrc" / "core", Path(__file__).parents[3] / "csrc" / "core")
    return next((folder for folder in folders if (folder / "alignment_core.h").is_file()), None)


def list_units(
    folder: Path, machine: str | None = None, *, accepts: Callable[[tuple[str, ...]], bool] = lambda flags: True
) -> list[TranslationUnit]:
    """Return what to compile for an architecture (default: this one); unknown ones get only the scalar kernels.

    Instruction sets whose flags the compiler rejects are left out.
    """
    known = ISA_FLAGS.get(machine or platform.machine(), {"scalar": ()})
    isas = {isa: flags for isa, flags in known.items() if not flags or accepts(flags)}
    with_isas = tuple(f"-DAC_WITH_{isa.upper()}" for isa in isas if isa != "scalar")
    units = [TranslationUnit(folder / name, with_isas, Path(name).stem) for name in ONCE]
    for name in PER_ISA:
        for isa, flags in isas.items():
            if (name, isa) not in _SAME_AS_WIDER:
                units.append(TranslationUnit(folder / name, (f"-DAC_ISA={isa}", *flags), f"{Path(name).stem}_{isa}"))
    return units


def list_selftests(folder: Path) -> list[Path]:
    """Return the programs that test the kernels from C++."""
    return sorted(folder.glob(f"*{_SELFTEST}"))


def hash_sources(folder: Path) -> str:
    """Return a hash of all sources and headers in ``folder``, their names, and the flags."""
    digest = hashlib.sha256(repr((COMMON_FLAGS, LINK_FLAGS, ISA_FLAGS, ONCE, PER_ISA)).encode())
    files = {path for path in folder.iterdir() if path.suffix in (".cc", ".h")}
    for path in sorted(files.difference(list_selftests(folder))):
        digest.update(f"\n{path.name} {path.stat().st_size}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
