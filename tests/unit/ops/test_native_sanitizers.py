"""The kernels under AddressSanitizer and UndefinedBehaviorSanitizer: the self-tests of csrc/core.

The sanitizers' own OpenMP runtime is used: Paddle's is not instrumented.
"""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

from alignment.ops.native import sources, toolchain

SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-g1", "-O1")
COMPILER = toolchain.find_compiler()
SOURCES = sources.find_sources()


def run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-3000:]}{done.stderr[-6000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def objects(tmp_path_factory) -> list[str]:
    """Every object of the library, instrumented."""
    if COMPILER is None:
        pytest.skip("no C++ compiler here: the kernels cannot be built with sanitizers")
    folder = tmp_path_factory.mktemp("sanitized")
    probe = folder / "probe.cc"
    probe.write_text("int main() { return 0; }\n")
    linked = subprocess.run([COMPILER.program, *SANITIZE, str(probe), "-o", str(folder / "probe")], capture_output=True)
    if linked.returncode != 0:
        pytest.skip(f"{COMPILER.program} has no sanitizer runtime here")

    def build(unit: sources.TranslationUnit) -> str:
        target = str(folder / f"{unit.stem}.o")
        flags = (*sources.COMMON_FLAGS, *SANITIZE, *unit.flags)
        run([COMPILER.program, *flags, "-c", str(unit.source), "-o", target])
        return target

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(build, sources.list_units(SOURCES)))


@pytest.mark.slow
@pytest.mark.parametrize("program", sources.list_selftests(SOURCES), ids=lambda path: path.stem)
def test_no_access_out_of_bounds_and_no_undefined_behaviour(program, objects, tmp_path):
    target = tmp_path / "selftest"
    flags = (*sources.COMMON_FLAGS, *SANITIZE, "-fopenmp")
    run([COMPILER.program, *flags, str(program), *objects, "-o", str(target)])
    assert run([str(target)]), "it says what it did"


@pytest.mark.slow
def test_an_access_out_of_bounds_is_found(objects, tmp_path):
    source = tmp_path / "wrong.cc"
    source.write_text(
        '#include <vector>\n#include "alignment_core.h"\n'
        "int main() {\n  std::vector<uint64_t> ids(3);\n  std::vector<uint32_t> places(4);\n"
        "  std::vector<double> out(4);\n  ac_philox_uniform(1, 4, ids.data(), places.data(), out.data());\n}\n"
    )
    target = tmp_path / "wrong"
    include = f"-I{SOURCES}"
    run([COMPILER.program, *sources.COMMON_FLAGS, *SANITIZE, include, str(source), *objects, "-o", str(target)])
    done = subprocess.run([str(target)], capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert "heap-buffer-overflow" in done.stderr
