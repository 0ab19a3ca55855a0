"""An installed package brings the kernel sources, so that it can compile them at first use."""

from __future__ import annotations

import subprocess
import sys

import pytest

from alignment.ops.native import sources
from alignment.ops.native.cuda import kinds


def test_an_installed_package_finds_the_same_sources(repo_root, tmp_path):
    pytest.importorskip("setuptools")
    command = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(tmp_path)]
    subprocess.run(command, cwd=repo_root, check=True, capture_output=True, timeout=300)
    code = (
        "from alignment.ops.native import sources; folder = sources.find_sources(); "
        "print(folder); print(sources.hash_sources(folder)); "
        "from alignment.ops.native.cuda import kinds; "
        "print(*sorted(path.name for path in kinds.source_folder().iterdir()))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True, timeout=60)
    folder, digest, cuda = done.stdout.splitlines()
    assert folder == str(tmp_path / "alignment" / "ops" / "native" / "csrc" / "core")
    assert digest == sources.hash_sources(sources.find_sources())
    needed = {path.name for path in kinds.source_folder().iterdir() if path.suffix in (".cu", ".h", ".sh")}
    assert set(cuda.split()) == needed
    assert not list(tmp_path.rglob("*.so")), "nothing is compiled by an installation"


def test_every_source_is_listed(repo_root):
    folder = repo_root / "csrc" / "core"
    programs = sources.list_selftests(folder)
    assert programs
    assert {path.name for path in set(folder.glob("*.cc")).difference(programs)} == {*sources.ONCE, *sources.PER_ISA}


def test_other_architectures_get_their_own_flags(repo_root):
    folder = repo_root / "csrc" / "core"
    for machine, isas in {"x86_64": 5, "aarch64": 2, "riscv64": 1}.items():
        units = sources.list_units(folder, machine)
        assert sum(unit.source.name == "kernels.cc" for unit in units) == isas
        assert len({unit.stem for unit in units}) == len(units)
        assert any("-m" in flag for unit in units for flag in unit.flags) == (machine == "x86_64")
        dispatch = next(unit for unit in units if unit.stem == "dispatch")
        assert len(dispatch.flags) == isas - 1


def test_what_an_older_compiler_does_not_know_is_left_out(repo_root):
    units = sources.list_units(repo_root / "csrc" / "core", "x86_64", accepts=lambda flags: "-mamx-tile" not in flags)
    assert "kernels_avx512bf16" in {unit.stem for unit in units}
    assert not any("amx" in flag.lower() for unit in units for flag in (*unit.flags, unit.stem))
