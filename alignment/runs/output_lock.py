"""Lock an output folder for one run at a time; the lock names its owner and does not outlive it."""

from __future__ import annotations

import contextlib
import datetime
import errno
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from alignment.errors import ArgumentError
from alignment.parallel.comms.group import Group
from alignment.parallel.comms.together import on_main

LOCK_FILE = ".lock"
_HELD_BY_ANOTHER = (errno.EACCES, errno.EAGAIN)
_NOT_SUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
"""Errors of file systems without locks."""


class Owner(NamedTuple):
    """The process that holds a lock, as recorded in the lock file."""

    pid: int
    host: str
    boot: str
    """Boot id: changes whenever the machine starts, and is shared by its containers."""
    since: str

    @classmethod
    def this_process(cls) -> Owner:
        """Describe the current process."""
        now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        return cls(os.getpid(), socket.gethostname(), _boot_id(), now)

    def describe(self) -> str:
        """Return a description for messages."""
        return f"process {self.pid} on {self.host} (since {self.since})"


class OutputLock:
    """The lock of one folder; the system releases it when the process ends, however it ends."""

    def __init__(self, folder: Path, *, key: str = "output_dir") -> None:
        """Messages name the argument ``key``."""
        self._key = key
        self._folder = folder
        self._path = folder / LOCK_FILE
        self._file: int | None = None

    def acquire(self) -> str | None:
        """Take the lock; if it was left behind by a dead process, return a line about that.

        Raises ArgumentError if another process holds it, or might hold it on another machine.
        """
        try:
            file = self._open()
            note = self._claim(file)
        except OSError as error:
            raise ArgumentError(
                f"{self._key}={self._folder} cannot be written ({self._path.name}: {error.strerror}); name a folder "
                "that can be written"
            ) from error
        self._file = file
        return note

    def release(self) -> None:
        """Release the lock, if held, and remove its file."""
        if self._file is not None:
            self._path.unlink(missing_ok=True)
            os.close(self._file)
            self._file = None

    def _open(self) -> int:
        """Return the lock file, opened and, if the file system supports it, locked."""
        while True:
            file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                self._lock(file)
                if self._is_current(file):
                    return file
            except BaseException:
                os.close(file)
                raise
            os.close(file)

    def _lock(self, file: int) -> None:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _HELD_BY_ANOTHER:
                self._refuse(_read_owner(file))
            if error.errno not in _NOT_SUPPORTED:
                raise
            owner = _read_owner(file)
            if owner is not None and owner.boot == _boot_id() and _is_alive(owner.pid):
                self._refuse(owner)

    def _is_current(self, file: int) -> bool:
        """Tell whether ``file`` still exists under its name: the previous owner may just have removed it."""
        try:
            return os.path.samestat(os.fstat(file), os.stat(self._path))
        except FileNotFoundError:
            return False

    def _claim(self, file: int) -> str | None:
        """Record this process in the locked ``file``."""
        owner, own = _read_owner(file), Owner.this_process()
        try:
            if owner is not None and own.boot != owner.boot and own.host != owner.host:
                raise ArgumentError(
                    f"{self._key}={self._folder} was in use by {owner.describe()}, and from {own.host} there is no "
                    f"telling whether that process still runs. If it has ended, delete {self._path} and start again; "
                    "otherwise name another folder"
                )
            os.ftruncate(file, 0)
            os.pwrite(file, json.dumps(own._asdict()).encode(), 0)
        except BaseException:
            os.close(file)
            raise
        is_dead = owner is not None and owner.pid != own.pid
        return f"{owner.describe()} ended without releasing {self._folder}: taken over" if is_dead else None

    def _refuse(self, owner: Owner | None) -> None:
        who = owner.describe() if owner is not None else "another process that is starting"
        raise ArgumentError(
            f"{self._key}={self._folder} is in use by {who}: two runs would mix their files. Wait until it ends, or "
            "name another folder"
        )


@contextlib.contextmanager
def hold_output(folder: Path, world: Group, *, key: str = "output_dir") -> Iterator[str | None]:
    """Hold the lock of ``folder``, which the argument ``key`` names, for all processes of the run; yield the result of
    ``OutputLock.acquire``.
    """
    lock = OutputLock(folder, key=key)
    note = on_main(world, lock.acquire)
    try:
        yield note
    finally:
        lock.release()


def _read_owner(file: int) -> Owner | None:
    """Return the owner recorded in ``file``; None if there is no valid record."""
    try:
        content = json.loads(os.pread(file, 4096, 0))
        return Owner(int(content["pid"]), str(content["host"]), str(content["boot"]), str(content["since"]))
    except (ValueError, KeyError, TypeError):
        return None


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return f"boot of {socket.gethostname()}"


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
