"""Find a kernel library in the package or the user's cache, or compile it.

Cache entries are named by a hash of everything that affects the build, so a stale one is never used. They are compiled
in a temporary folder and renamed under a lock: processes that start together build once, and a killed build leaves
nothing that is read. Libraries that are damaged, or that other users could have changed, are not loaded (``trust.py``).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from alignment.errors import UserError
from alignment.ops.native import sources, toolchain, trust
from alignment.ops.native.toolchain import Compiler
from alignment.telemetry import log

PACKAGE_FOLDER = Path(__file__).parent
"""The folder of prebuilt libraries."""

_ASIDE = "building-"
_LOCK = "build.lock"


class KernelBuildError(UserError):
    """There is no usable kernel library; the message says why."""


class Library(NamedTuple):
    """A kernel library on disk."""

    path: Path
    origin: str
    """A description for messages."""


class Kind(NamedTuple):
    """A kind of library and how to compile it; the functions may raise KernelBuildError."""

    name: str
    """The prefix of its file names."""
    title: str
    """Its name in messages."""
    digest: Callable[[], str]
    """Returns a hash of the sources and flags."""
    find_compiler: Callable[[], Compiler]
    key: Callable[[Compiler], str]
    """Returns a hash of everything else that affects the library."""
    compile: Callable[[Path, Compiler, Path], None]
    """Builds the library (in its own folder) with the compiler; commands and messages go to the log file."""


def cache_folder() -> Path:
    """Return the folder of this user's builds: ``$XDG_CACHE_HOME/alignment``, else ``~/.cache/alignment``."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    try:
        return base.expanduser() / "alignment"
    except RuntimeError as error:
        raise KernelBuildError(f"no place for a build ({error}); set XDG_CACHE_HOME to a folder") from error


def find_compiler() -> Compiler:
    """Return the compiler ``$CXX`` or the first one found; KernelBuildError if there is none."""
    compiler = toolchain.find_compiler(os.environ.get("CXX", ""))
    if compiler is None:
        raise KernelBuildError(f"no C++ compiler: none of $CXX, {', '.join(toolchain.COMPILERS)} runs")
    return compiler


def find_prebuilt(folder: Path = PACKAGE_FOLDER, *, kind: Kind | None = None) -> Library:
    """Return the prebuilt library in ``folder`` for the sources of this version (``kind``: default ``CORE``).

    The package's owner is trusted too, as the package's Python files are executed anyway.
    """
    path = prebuilt_path(folder, kind or CORE)
    if not path.is_file():
        raise KernelBuildError("no prebuilt library beside the package")
    problem = trust.find_problem(path, trust.trusted_owners() | {folder.stat().st_uid})
    if problem:
        again = "python -m alignment.ops.build --prebuilt"
        raise KernelBuildError(f"not loaded: {path} {problem}; run {again}{_option(kind or CORE)} again")
    return Library(path, f"prebuilt library {path}")


def prebuilt_path(folder: Path, kind: Kind) -> Path:
    """Return the path of the prebuilt library of these sources in ``folder``."""
    return folder / f"alignment_{kind.name}-{kind.digest()}.so"


def find_or_build(*, kind: Kind | None = None, force: bool = False) -> Library:
    """Return the cached library for these sources, this compiler and this machine, compiling it if necessary.

    Without a compiler any earlier build of these sources is used. ``force`` compiles again. KernelBuildError says what
    is missing or where the compiler's messages are.
    """
    kind = kind or CORE
    stem = f"{kind.name}-{kind.digest()}"
    _refuse_open_cache()
    try:
        compiler = kind.find_compiler()
    except KernelBuildError as error:
        return _find_earlier([] if force else sorted(cache_folder().glob(f"{stem}-*.so")), str(error))
    path = cache_folder() / f"{stem}-{kind.key(compiler)}.so"
    if not force and _find_problem(path) is None:
        return Library(path, f"cached build {path}")
    try:
        return _build_once(path, kind, compiler, force=force)
    except OSError as error:
        raise KernelBuildError(f"the build cache cannot be used ({error}); set XDG_CACHE_HOME to another") from error


def _compile_core(target: Path, compiler: Compiler, log_file: Path) -> None:

    def accepts(flags: tuple[str, ...]) -> bool:
        check = [compiler.program, *flags, "-x", "c++", "-fsyntax-only", os.devnull]
        problem = toolchain.run_logged(check, log_file)
        if problem:
            log.warn(f"kernels for {' '.join(flags)} are left out: {problem}")
        return problem is None

    units = sources.list_units(_source_folder(), accepts=accepts)
    objects = [target.parent / f"{unit.stem}.o" for unit in units]
    commands = [
        [compiler.program, *sources.COMMON_FLAGS, *unit.flags, "-c", str(unit.source), "-o", str(compiled)]
        for unit, compiled in zip(units, objects, strict=True)
    ]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        problems = list(pool.map(lambda command: toolchain.run_logged(command, log_file), commands))
    link = [compiler.program, *sources.LINK_FLAGS, "-o", str(target), *map(str, objects)]
    link += toolchain.openmp_link_flags()
    problem = next(filter(None, problems), None) or toolchain.run_logged(link, log_file)
    if problem:
        raise KernelBuildError(f"compiling the kernels failed: {problem} (all messages: {log_file})")


def place_prebuilt(library: Path, folder: Path = PACKAGE_FOLDER, *, kind: Kind | None = None) -> Path:
    """Copy a build into ``folder`` as the prebuilt library of these sources, and remove earlier ones."""
    kind = kind or CORE
    target = prebuilt_path(folder, kind)
    aside = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        shutil.copyfile(library, aside)
        trust.seal(aside)
        for old in folder.glob(f"alignment_{kind.name}-*.so*"):
            old.unlink()
        trust.place(aside, target)
    except OSError as error:
        for left in (aside, trust.record_path(aside)):
            left.unlink(missing_ok=True)
        raise KernelBuildError(f"cannot put the library into {folder}: {error.strerror or error}") from error
    return target


def _option(kind: Kind) -> str:
    return "" if kind is CORE else f" --{kind.name}"


def _source_folder() -> Path:
    folder = sources.find_sources()
    if folder is None:
        raise KernelBuildError("the kernel sources are not installed")
    return folder


def _refuse_open_cache() -> None:
    folder = cache_folder()
    problem = trust.find_folder_problem(folder)
    if problem:
        raise KernelBuildError(
            f"nothing is executed from the build cache {folder}: it {problem}; make it yours alone (chmod 700), or set "
            "XDG_CACHE_HOME to another folder"
        )


def _find_problem(path: Path) -> str | None:
    return trust.find_problem(path, trust.trusted_owners())


def _find_earlier(libraries: list[Path], no_compiler: str) -> Library:
    """Return the first of ``libraries`` that may be loaded; KernelBuildError says what is wrong with them."""
    problems = [f"{path} {problem}" for path in libraries if (problem := _find_problem(path))]
    sound = next((path for path in libraries if _find_problem(path) is None), None)
    if sound is None:
        raise KernelBuildError("; ".join([no_compiler, *problems]))
    return Library(sound, f"cached build {sound}")


def _key(compiler: Compiler) -> str:
    made_from = (compiler, toolchain.openmp_link_flags(), toolchain.processor())
    return hashlib.sha256(repr(made_from).encode()).hexdigest()[:16]


def _build_once(path: Path, kind: Kind, compiler: Compiler, *, force: bool) -> Library:
    """Build under the lock, unless another process has built it, or failed to, in the meantime."""
    started = time.time()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _locked(path.parent):
        problem = _find_problem(path)
        if problem is None and not force:
            return Library(path, f"cached build {path}")
        _repeat_failure(path, since=started)
        if os.path.lexists(path) and not force:
            log.warn(f"not loaded: {path} {problem}; it is built again, which takes up to a minute")
        else:
            log.info(f"compiling the {kind.title} with {compiler.program}, once; this takes up to a minute")
        _build(path, kind, compiler)
    return Library(path, f"built in {time.time() - started:.0f} s as {path}")


def _build(path: Path, kind: Kind, compiler: Compiler) -> None:
    """Compile in a temporary folder inside the cache, then rename; the caller holds the lock."""
    for left_by_a_killed_build in path.parent.glob(f"{_ASIDE}*"):
        shutil.rmtree(left_by_a_killed_build, ignore_errors=True)
    log_file, failure = path.with_suffix(".log"), path.with_suffix(".failed")
    log_file.unlink(missing_ok=True)
    failure.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix=_ASIDE, dir=path.parent) as aside:
        library = Path(aside) / path.name
        try:
            kind.compile(library, compiler, log_file)
        except KernelBuildError as error:
            failure.write_text(str(error), encoding="utf-8")
            raise
        if kind.digest() not in path.name:
            raise KernelBuildError(f"the sources of the {kind.title} were edited while they were compiled; build again")
        trust.seal(library)
        trust.place(library, path)


def _repeat_failure(path: Path, *, since: float) -> None:
    """Raise another process's build failure after ``since``, so that waiting ranks do not fail one by one."""
    failure = path.with_suffix(".failed")
    if failure.is_file() and failure.stat().st_mtime >= since:
        raise KernelBuildError(failure.read_text(encoding="utf-8"))


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the build lock of ``folder``; the system releases it when the process ends, however it ends."""
    with (folder / _LOCK).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


CORE = Kind("core", "CPU kernels", lambda: sources.hash_sources(_source_folder()), find_compiler, _key, _compile_core)
"""The kernels of csrc/core."""
