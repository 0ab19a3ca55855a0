"""One run at a time in an output folder: a lock that says whose it is, and that the dead do not hold."""

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
"""What file systems answer that know no locks."""


class Owner(NamedTuple):
    """The process that has a lock, as the lock file tells it."""

    pid: int
    host: str
    boot: str
    """Changes with each start of the machine, and is the same in all of its containers."""
    since: str

    @classmethod
    def this_process(cls) -> Owner:
        """Return who we are."""
        now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        return cls(os.getpid(), socket.gethostname(), _boot_id(), now)

    def describe(self) -> str:
        """Return who it is, for a message."""
        return f"process {self.pid} on {self.host} (since {self.since})"


class OutputLock:
    """The lock of one folder. The system lets go of it when the process ends, however it ends."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / LOCK_FILE
        self._file: int | None = None

    def acquire(self) -> str | None:
        """Take the lock; return a line about a dead owner it was taken over from, if there was one.

        Raises ArgumentError when another process has it, or may have it on another machine.
        """
        try:
            file = self._open()
            note = self._claim(file)
        except OSError as error:
            raise ArgumentError(
                f"output_dir={self._folder} cannot be written ({self._path.name}: {error.strerror}); name a folder "
                "that can be written"
            ) from error
        self._file = file
        return note

    def release(self) -> None:
        """Let go of the lock and remove its file; without a lock nothing happens."""
        if self._file is not None:
            self._path.unlink(missing_ok=True)
            os.close(self._file)
            self._file = None

    def _open(self) -> int:
        """Return the lock file, opened and, where the file system can, locked."""
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
        """Return whether ``file`` still has its name: the owner before may just have removed it."""
        try:
            return os.path.samestat(os.fstat(file), os.stat(self._path))
        except FileNotFoundError:
            return False

    def _claim(self, file: int) -> str | None:
        """Write this process into the locked ``file``."""
        owner, own = _read_owner(file), Owner.this_process()
        try:
            if owner is not None and own.boot != owner.boot and own.host != owner.host:
                raise ArgumentError(
                    f"output_dir={self._folder} was in use by {owner.describe()}, and from {own.host} it cannot be "
                    f"seen whether that process still runs. If it has ended, delete {self._path} and start again; "
                    "else name another folder"
                )
            os.ftruncate(file, 0)
            os.pwrite(file, json.dumps(own._asdict()).encode(), 0)
        except BaseException:
            os.close(file)
            raise
        is_dead = owner is not None and owner.pid != own.pid
        return f"{owner.describe()} ended without giving {self._folder} free: taken over" if is_dead else None

    def _refuse(self, owner: Owner | None) -> None:
        who = owner.describe() if owner is not None else "another process that starts at this moment"
        raise ArgumentError(
            f"output_dir={self._folder} is in use by {who}: two runs would mix their files. Wait for its end, or name "
            "another folder"
        )


@contextlib.contextmanager
def hold_output(folder: Path, world: Group) -> Iterator[str | None]:
    """Hold the lock of ``folder`` inside, for all processes of the run; yields what ``OutputLock.acquire`` returns."""
    lock = OutputLock(folder)
    note = on_main(world, lock.acquire)
    try:
        yield note
    finally:
        lock.release()


def _read_owner(file: int) -> Owner | None:
    """Return the owner that is written in ``file``; None where nothing whole is."""
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
