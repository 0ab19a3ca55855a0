"""Two runs never share an output folder, and a run that was killed does not keep it."""

import contextlib
import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from alignment.errors import ArgumentError
from alignment.parallel.comms.group import ALONE
from alignment.runs import output_lock
from alignment.runs.output_lock import LOCK_FILE, OutputLock, Owner, hold_output
from tests.forked_ranks import run_forked


@pytest.fixture
def other(tmp_path):
    """The id of another process that holds the lock of ``tmp_path``."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            OutputLock(tmp_path).acquire()
            os.write(writer, b"held")
            time.sleep(60)
        finally:
            os._exit(1)
    assert os.read(reader, 4) == b"held"
    yield child
    with contextlib.suppress(ProcessLookupError, ChildProcessError):
        _kill(child)
    os.close(reader)
    os.close(writer)


def _kill(child):
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def _owner(folder):
    return Owner(**json.loads((folder / LOCK_FILE).read_text()))


def _write(folder, **changes):
    owner = Owner.this_process()._replace(**changes)
    (folder / LOCK_FILE).write_text(json.dumps(owner._asdict()))
    return owner


def test_the_second_run_is_refused_by_pid_and_host_until_the_first_has_died(tmp_path, other):
    host = os.uname().nodename
    with pytest.raises(ArgumentError, match=rf"is in use by process {other} on {host} \(since 20"):
        OutputLock(tmp_path).acquire()
    assert _owner(tmp_path).pid == other, "a refused run changes nothing"
    _kill(other)
    lock = OutputLock(tmp_path)
    assert f"process {other} on {host}" in lock.acquire()
    assert _owner(tmp_path).pid == os.getpid()
    lock.release()
    assert list(tmp_path.iterdir()) == []


def test_the_lock_is_given_back_at_the_end_and_on_failure(tmp_path):
    with hold_output(tmp_path, ALONE) as note:
        assert note is None
        assert _owner(tmp_path).pid == os.getpid()
    with pytest.raises(ValueError), hold_output(tmp_path, ALONE):
        raise ValueError
    assert list(tmp_path.iterdir()) == []


def test_several_processes_of_one_run_hold_it_together(tmp_path):
    def work(topology):
        with hold_output(tmp_path, topology.world) as note:
            is_there = (tmp_path / LOCK_FILE).exists()
            topology.world.gather_objects(None)
            return note, is_there

    assert run_forked(work, 2) == [(None, True), (None, True)]
    assert list(tmp_path.iterdir()) == []


def test_every_process_of_a_refused_run_ends_with_the_message(tmp_path, other):
    def work(topology):
        with hold_output(tmp_path, topology.world):
            return "held"

    found = run_forked(work, 2)
    assert [type(error) for error in found] == [ArgumentError, ArgumentError]
    assert all(f"process {other}" in str(error) for error in found)


def test_a_run_on_another_machine_is_refused_with_what_to_do(tmp_path):
    owner = _write(tmp_path, pid=77, host="node-9", boot="another")
    with pytest.raises(ArgumentError) as caught:
        OutputLock(tmp_path).acquire()
    assert "process 77 on node-9" in str(caught.value)
    assert f"delete {tmp_path / LOCK_FILE} and start again" in str(caught.value)
    assert _owner(tmp_path) == owner


@pytest.mark.parametrize("changes", [{"host": "container-1"}, {"boot": "before the restart"}])
def test_the_dead_of_this_machine_hold_nothing(tmp_path, changes):
    """A container has another host name and the same kernel; after a restart it is the other way round."""
    _write(tmp_path, pid=77, **changes)
    lock = OutputLock(tmp_path)
    assert "process 77" in lock.acquire()
    lock.release()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": "x"}'])
def test_a_torn_lock_file_is_nobodys(tmp_path, content):
    (tmp_path / LOCK_FILE).write_text(content)
    lock = OutputLock(tmp_path)
    assert lock.acquire() is None
    lock.release()


def test_where_the_file_system_knows_no_locks_the_process_is_looked_for(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise OSError(errno.ENOSYS, "not here")

    monkeypatch.setattr(fcntl, "lockf", refuse)
    living = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        _write(tmp_path, pid=living.pid)
        with pytest.raises(ArgumentError, match=f"in use by process {living.pid}"):
            OutputLock(tmp_path).acquire()
    finally:
        living.kill()
        living.wait()
    lock = OutputLock(tmp_path)
    assert f"process {living.pid}" in lock.acquire()
    lock.release()


def test_a_lock_whose_file_was_just_removed_is_none(tmp_path, monkeypatch):
    """Between our opening and our locking the owner before may remove the file: the lock must be on the new one."""
    (tmp_path / LOCK_FILE).write_text("")
    real, removed = fcntl.lockf, []

    def lock_late(*arguments):
        if not removed:
            (tmp_path / LOCK_FILE).unlink()
            removed.append(True)
        return real(*arguments)

    monkeypatch.setattr(output_lock.fcntl, "lockf", lock_late)
    lock = OutputLock(tmp_path)
    lock.acquire()
    assert _owner(tmp_path).pid == os.getpid()
    lock.release()


def test_of_many_that_start_at_once_one_wins(tmp_path):
    def work(topology):
        topology.world.gather_objects(None)
        try:
            OutputLock(tmp_path).acquire()
            outcome = "won"
        except ArgumentError as error:
            outcome = "refused" if "is in use by" in str(error) else str(error)
        topology.world.gather_objects(None)
        return outcome

    for _ in range(5):
        assert sorted(run_forked(work, 4)) == ["refused", "refused", "refused", "won"]
