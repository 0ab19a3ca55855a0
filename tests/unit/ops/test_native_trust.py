"""A cached library is loaded only when it is what was built, and nobody else could have changed it."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from alignment.ops.native import build, sources, toolchain, trust
from alignment.ops.native.build import KernelBuildError

REAL = toolchain.find_compiler()
pytestmark = pytest.mark.skipif(REAL is None, reason="no C++ compiler here: nothing can be built")


@pytest.fixture(autouse=True)
def told(tmp_path, monkeypatch):
    """A source that compiles in a moment, an empty cache, and the warnings that were given."""
    folder, lines = tmp_path / "sources", []
    folder.mkdir()
    (folder / "alignment_core.h").write_text("int one(void);\n")
    (folder / "one.cc").write_text('extern "C" __attribute__((visibility("default"))) int one() { return 1; }\n')
    monkeypatch.setattr(sources, "ONCE", ("one.cc",))
    monkeypatch.setattr(sources, "PER_ISA", ())
    monkeypatch.setattr(sources, "ISA_FLAGS", {})
    monkeypatch.setattr(sources, "find_sources", lambda: folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(build.log, "warn", lines.append)
    monkeypatch.setattr(build.log, "info", lambda line: lines.append(line) if lines else None)
    return lines


@pytest.fixture
def built() -> Path:
    """A library that was built, in the cache."""
    return build.find_or_build().path


@pytest.fixture
def no_compiler(built, monkeypatch):
    """Take the compiler away after the build."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CXX", "")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def change_record(path: Path) -> None:
    trust.record_path(path).write_text("0" * 64 + f" {path.stat().st_size}\n")


DAMAGE = {
    "empty": (lambda path: path.write_bytes(b""), "is damaged: its 0 bytes are not"),
    "truncated": (lambda path: os.truncate(path, 4096), "is damaged: its 4096 bytes are not"),
    "a flipped bit": (flip, "is damaged"),
    "another checksum": (change_record, "is damaged"),
    "no checksum": (lambda path: trust.record_path(path).unlink(), "has no checksum beside it"),
    "written by all": (lambda path: path.chmod(0o777), r"can be written by others \(mode 777\)"),
    "written by the group": (lambda path: path.chmod(0o775), r"can be written by others \(mode 775\)"),
    "a checksum written by all": (
        lambda path: trust.record_path(path).chmod(0o666),
        r"its checksum can be written by others \(mode 666\)",
    ),
    "a link": (lambda path: path.symlink_to(path.rename(path.with_suffix(".moved"))), "is not a regular file"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_what_is_not_what_was_built_is_built_again_with_one_line(kind, built, told):
    wanted, (damage, line) = built.read_bytes(), DAMAGE[kind]
    damage(built)
    again = build.find_or_build()
    assert again.path == built and again.origin.startswith("built in ")
    assert built.read_bytes() == wanted and not built.is_symlink()
    (told_once,) = told
    assert re.fullmatch(rf"not loaded: {built} .*{line}.*; it is built again, which takes up to a minute", told_once)
    told.clear()
    assert build.find_or_build().origin == f"cached build {built}" and told == []


def test_a_library_of_another_user_is_built_again(built, told, monkeypatch):
    monkeypatch.setattr(trust, "trusted_owners", lambda: {built.stat().st_uid + 1})
    monkeypatch.setattr(trust, "find_folder_problem", lambda folder: None)
    assert build.find_or_build().origin.startswith("built in ")
    assert f"{built} belongs to user " in told[0]


@pytest.mark.parametrize("kind", ["empty", "written by all"])
def test_without_a_compiler_it_is_not_loaded_either(kind, built, no_compiler):
    damage, line = DAMAGE[kind]
    damage(built)
    with pytest.raises(KernelBuildError, match=rf"no C\+\+ compiler.*{built.name} {line}"):
        build.find_or_build()


def test_without_a_compiler_another_sound_build_of_the_sources_serves(built, no_compiler):
    stem = built.name.rpartition("-")[0]
    damaged = built.with_name(f"{stem}-0.so")
    damaged.write_bytes(b"")
    assert build.find_or_build().path == built


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o770])
def test_nothing_is_executed_from_a_folder_that_others_can_write(built, mode):
    built.parent.chmod(mode)
    line = rf"{built.parent}: it can be written by others \(mode {mode:o}\).*XDG_CACHE_HOME"
    with pytest.raises(KernelBuildError, match=line):
        build.find_or_build()
    built.parent.chmod(0o700)
    assert build.find_or_build().path == built


def test_nothing_is_executed_from_a_folder_of_another_user(built, monkeypatch):
    monkeypatch.setattr(trust, "trusted_owners", lambda: {built.stat().st_uid + 1})
    with pytest.raises(KernelBuildError, match=f"{built.parent}: it belongs to user "):
        build.find_or_build()


def test_the_users_own_umask_does_not_matter(told):
    before = os.umask(0)
    try:
        built = build.find_or_build().path
    finally:
        os.umask(before)
    assert (built.parent.stat().st_mode & 0o777, built.stat().st_mode & 0o777) == (0o700, 0o755)
    assert build.find_or_build().origin == f"cached build {built}" and told == []


@pytest.mark.parametrize("kind", ["empty", "written by all", "no checksum"])
def test_a_prebuilt_library_is_held_to_the_same(kind, built, tmp_path):
    package, (damage, line) = tmp_path / "package", DAMAGE[kind]
    package.mkdir()
    placed = build.place_prebuilt(built, package)
    damage(placed)
    with pytest.raises(KernelBuildError, match=f"not loaded: {placed} {line}.*; run .*ops.build --prebuilt"):
        build.find_prebuilt(package)


def test_only_this_user_and_root_are_trusted():
    assert trust.trusted_owners() == {os.geteuid(), 0}
