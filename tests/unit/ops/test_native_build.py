"""Building: what names an entry of the cache, who builds, and what a failed or killed build leaves behind.

The sources are two tiny files; CXX is a script that notes each call and may be slow or refuse.
"""

from __future__ import annotations

import os
import platform
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from alignment.ops import build as build_command
from alignment.ops.native import build, sources, toolchain
from alignment.ops.native.build import KernelBuildError
from alignment.ops.native.cuda import kinds
from alignment.ops.native.cuda.library import find_cuda
from alignment.ops.native.toolchain import Compiler

REAL = toolchain.find_compiler()
pytestmark = pytest.mark.skipif(REAL is None, reason="no C++ compiler here: nothing can be built")

PATCH = """
import sys
from pathlib import Path
from alignment.ops.native import build, sources
sources.ONCE, sources.PER_ISA = ("one.cc", "two.cc"), ()
sources.find_sources = lambda: Path(sys.argv[1])
"""
BUILD = (
    PATCH
    + """
try:
    print(build.find_or_build())
except build.KernelBuildError as error:
    print("refused:", error)
"""
)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Tiny sources, an empty cache, and a compiler that notes its calls in ``calls``."""
    folder = tmp_path / "sources"
    folder.mkdir()
    (folder / "alignment_core.h").write_text("int one(void);\n")
    (folder / "one.cc").write_text('extern "C" __attribute__((visibility("default"))) int one() { return 1; }\n')
    (folder / "two.cc").write_text("int two() { return 2; }\n")
    monkeypatch.setattr(sources, "ONCE", ("one.cc", "two.cc"))
    monkeypatch.setattr(sources, "PER_ISA", ())
    monkeypatch.setattr(sources, "find_sources", lambda: folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("CXX", str(write_compiler(tmp_path)))
    return folder


def write_compiler(tmp_path: Path, before: str = "") -> Path:
    script = tmp_path / "compiler"
    script.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n{before}\nexec {REAL.program} "$@"\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return script


def count_calls(tmp_path: Path, word: str) -> int:
    calls = tmp_path / "calls"
    return sum(word in line.split() for line in calls.read_text().splitlines()) if calls.exists() else 0


def cached(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache").rglob("*.so"))


def start(folder: Path, code: str = BUILD) -> subprocess.Popen:
    command = [sys.executable, "-c", code, str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)


def test_it_builds_once(tmp_path):
    first, second = build.find_or_build(), build.find_or_build()
    assert first.path == second.path == cached(tmp_path)[0]
    assert first.origin.startswith("built in ")
    assert second.origin == f"cached build {first.path}"
    assert count_calls(tmp_path, "-shared") == 1
    assert not list(tmp_path.rglob("building-*"))


def test_force_builds_again(tmp_path):
    build.find_or_build()
    build.find_or_build(force=True)
    assert count_calls(tmp_path, "-shared") == 2
    assert len(cached(tmp_path)) == 1


@pytest.mark.parametrize("what", ["source", "new header", "flags", "openmp", "processor", "compiler"])
def test_whatever_makes_another_library_makes_another_entry(what, folder, tmp_path, monkeypatch):
    before = build.find_or_build().path
    if what == "source":
        (folder / "two.cc").write_text("int two() { return 3; }\n")
    elif what == "new header":
        (folder / "more.h").write_text("\n")
    elif what == "flags":
        monkeypatch.setattr(sources, "COMMON_FLAGS", (*sources.COMMON_FLAGS, "-g"))
    elif what == "openmp":
        monkeypatch.setattr(toolchain, "openmp_link_flags", lambda: [])
    elif what == "processor":
        monkeypatch.setattr(toolchain, "processor", lambda: "another")
    else:
        write_compiler(tmp_path, before='[ "$1" = --version ] && echo "another version" && exit 0')
    assert build.find_or_build().path != before
    assert before.exists(), "a process that runs may still read it"


def test_flags_that_the_compiler_does_not_know_are_left_out(folder, monkeypatch):
    told = []
    monkeypatch.setattr(build.log, "warn", told.append)
    flags = {"scalar": (), "known": ("-O1",), "unknown": ("-mno-such-processor",)}
    monkeypatch.setattr(sources, "ISA_FLAGS", {platform.machine(): flags})
    (folder / "two.cc").write_text("#if !defined(AC_WITH_KNOWN) || defined(AC_WITH_UNKNOWN)\n#error\n#endif\n")
    assert build.find_or_build().path.is_file()
    (line,) = told
    assert line.startswith("kernels for -mno-such-processor are left out: ")


def test_a_compile_error_is_one_line_with_the_log(folder, tmp_path):
    (folder / "two.cc").write_text("int two() { return unknown_name; }\n")
    with pytest.raises(KernelBuildError) as caught:
        build.find_or_build()
    message = str(caught.value)
    assert "unknown_name" in message
    assert "\n" not in message
    log = Path(message.rpartition("all messages: ")[2].rstrip(")"))
    assert "unknown_name" in log.read_text()
    assert cached(tmp_path) == []
    (folder / "two.cc").write_text("int two() { return 2; }\n")
    assert build.find_or_build().path.is_file()


def test_a_compiler_that_a_signal_ends_is_an_error_with_its_name(tmp_path):
    write_compiler(tmp_path, before='case "$*" in *-c*) kill -9 $$;; esac')
    with pytest.raises(KernelBuildError, match=r"compiler was ended by SIGKILL \(Killed\): .*memory ran out"):
        build.find_or_build()


def test_what_a_runtime_lacks_is_an_error_of_the_build(folder):
    (folder / "two.cc").write_text("int absent(); int two() { return absent(); }\n")
    with pytest.raises(KernelBuildError, match="absent"):
        build.find_or_build()


def test_without_a_compiler_it_says_so(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CXX", "")
    with pytest.raises(KernelBuildError, match=r"no C\+\+ compiler.*g\+\+"):
        build.find_or_build()


def test_an_earlier_build_serves_when_the_compiler_is_gone(folder, monkeypatch):
    path = build.find_or_build().path
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CXX", "")
    assert build.find_or_build().path == path
    (folder / "two.cc").write_text("int two() { return 3; }\n")
    with pytest.raises(KernelBuildError, match=r"no C\+\+ compiler"):
        build.find_or_build()


def test_a_compiler_that_does_not_run_is_passed_over(tmp_path, monkeypatch):
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    assert toolchain.find_compiler(str(broken)) == REAL
    assert toolchain.find_compiler("no-such-compiler") == REAL


def test_a_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    with pytest.raises(KernelBuildError, match="file.*XDG_CACHE_HOME"):
        build.find_or_build()


def test_sources_edited_during_a_build_are_not_cached(folder, tmp_path):
    write_compiler(tmp_path, before=f'case "$*" in *-shared*) echo "// more" >> {folder}/two.cc;; esac')
    with pytest.raises(KernelBuildError, match="edited while"):
        build.find_or_build()
    assert cached(tmp_path) == []


def test_two_processes_that_start_together_build_once(folder, tmp_path):
    write_compiler(tmp_path, before="sleep 0.5")
    outputs = [process.communicate(timeout=120)[0] for process in [start(folder), start(folder)]]
    assert count_calls(tmp_path, "-shared") == 1
    assert sorted("cached build" in output for output in outputs) == [False, True]
    assert all(str(cached(tmp_path)[0]) in output for output in outputs)


def test_processes_that_wait_share_one_failure(folder, tmp_path):
    (folder / "two.cc").write_text("int two() { return unknown_name; }\n")
    write_compiler(tmp_path, before='[ "$1" = --version ] || sleep 1')
    outputs = [process.communicate(timeout=120)[0] for process in [start(folder), start(folder)]]
    assert all("unknown_name" in output for output in outputs)
    assert count_calls(tmp_path, "-c") == 2, "two files, one attempt"


def test_a_killed_build_leaves_nothing_that_is_read(folder, tmp_path):
    write_compiler(tmp_path, before='case "$*" in *-shared*) sleep 60;; esac')
    killed = start(folder)
    wait_for(lambda: count_calls(tmp_path, "-shared") == 1)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert list(tmp_path.rglob("building-*")), "it was killed while it compiled"
    assert cached(tmp_path) == []
    write_compiler(tmp_path)
    built = build.find_or_build().path
    assert cached(tmp_path) == [built]
    assert not list(tmp_path.rglob("building-*")), "what the killed build left is cleared away"


def test_the_prebuilt_library_is_that_of_these_sources(folder, tmp_path):
    package = tmp_path / "package"
    package.mkdir()
    with pytest.raises(KernelBuildError, match="no prebuilt"):
        build.find_prebuilt(package)
    library = build.find_or_build().path
    placed = build.place_prebuilt(library, package)
    assert build.find_prebuilt(package).path == placed
    assert placed.read_bytes() == library.read_bytes()
    (folder / "two.cc").write_text("int two() { return 3; }\n")
    with pytest.raises(KernelBuildError, match="no prebuilt"):
        build.find_prebuilt(package)
    again = build.place_prebuilt(library, package)
    left = {again, again.with_name(f"{again.name}.sha256")}
    assert set(package.iterdir()) == left, "the one of other sources is removed"


def test_the_command_reports_what_cannot_be_built(folder, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["build"])
    assert build_command.main() == 1
    assert "cannot be loaded" in capsys.readouterr().err, "these sources are no kernels"
    (folder / "two.cc").unlink()
    assert build_command.main() == 1
    assert "two.cc" in capsys.readouterr().err


def wait_for(condition, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.02)


def test_a_build_for_another_cublas_has_another_name(tmp_path, monkeypatch):
    """Nvcc is a script that prints a header as it stands."""
    nvcc = tmp_path / "nvcc"
    nvcc.write_text('#!/bin/sh\nfor i; do case $i in -I*) cat "${i#-I}/cublasLt.h";; esac; done\n')
    nvcc.chmod(0o755)
    keys = []
    for folder, version in (("one", "13 0 2"), ("one", "13 1 0"), ("two", "13 1 0"), ("two", "13 1 0")):
        header = tmp_path / folder / "include" / "cublasLt.h"
        header.parent.mkdir(parents=True, exist_ok=True)
        header.write_text(f"typedef int any;\n{version}\n")
        monkeypatch.setenv("CUBLAS_ROOT", str(tmp_path / folder))
        keys.append(kinds.CUDA.key(Compiler(str(nvcc), "release 13.0")))
    assert len(set(keys)) == 3 and keys[2] == keys[3]


@pytest.mark.parametrize("has_cublas", [True, False])
def test_the_cuda_kernels_are_built_by_nvcc_or_the_reason_is_one_line(tmp_path, monkeypatch, capsys, has_cublas):
    """Nvcc is a script that makes empty files, and perhaps finds no cublasLt.h."""
    nvcc = tmp_path / "nvcc"
    nvcc.write_text(
        "#!/bin/sh\n"
        '[ "$1" = --version ] && echo "Cuda compilation tools, release 13.0" && exit\n'
        f'case "$*" in *-E*) exit {0 if has_cublas else 1};; *" -o "*) shift $(($# - 1)); : > "$1";; esac\n'
    )
    nvcc.chmod(0o755)
    monkeypatch.setattr(kinds, "_NVCC_PLACES", (str(nvcc),))
    monkeypatch.setattr(sys, "argv", ["build", "--cuda"])
    assert build_command.main() == 1
    *_, line = capsys.readouterr().err.splitlines()
    says = "built but cannot be loaded" if has_cublas else "compiling the CUDA kernels failed: error: no cublasLt.h"
    assert line.startswith("error: ") and says in line
    assert [path.name.partition("-")[0] for path in cached(tmp_path)] == (["cuda"] if has_cublas else [])
    nvcc.write_text("no program at all")
    monkeypatch.setattr(kinds, "_NVCC_PLACES", ("no-nvcc-here", str(nvcc)))
    found = find_cuda.__wrapped__()
    assert found.library is None and found.reason.startswith("no prebuilt library beside the package; ")
