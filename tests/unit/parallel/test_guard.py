"""Operations between processes: failures get a name, and none lasts longer than the limit."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path
from unittest import mock

import pytest

from alignment.parallel.comms.guard import CommunicationError, Guard
from alignment.parallel.comms.watch import ActivityBoard

ROOT = Path(__file__).parents[3]


def run(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT)


def test_a_failure_of_the_transport_names_place_and_operation():
    guard = Guard("rank 3 (stage 1, tensor 0, batch 1)")
    message = r"^rank 3 \(stage 1, tensor 0, batch 1\): send to rank 2 failed: reset$"
    with pytest.raises(CommunicationError, match=message), guard.during("send to rank 2"):
        raise RuntimeError("first line\n[/some/pair.cc:576] reset")


def test_other_errors_pass():
    with pytest.raises(KeyError), Guard("rank 0").during("send"):
        raise KeyError("no failure of the transport")


@pytest.mark.parametrize("place", ["threading.Thread(target=wait).start(); threading.Event().wait()", "wait()"])
def test_an_operation_beyond_the_limit_ends_the_process(place):
    done = run(
        "import threading, time\n"
        "from alignment.parallel.comms.guard import Guard\n"
        "guard = Guard('rank 1 (stage 1, tensor 0, batch 0)', limit=0.3)\n"
        "def wait():\n"
        "    with guard.during('send to rank 0'): time.sleep(60)\n"
        f"{place}"
    )
    assert done.returncode == 75
    assert done.stderr.startswith("rank 1 (stage 1, tensor 0, batch 0): send to rank 0 has not ended after ")
    assert "(the limit is 0.3 s)" in done.stderr


def test_time_between_operations_does_not_count():
    done = run(
        "import time\n"
        "from alignment.parallel.comms.guard import Guard\n"
        "guard = Guard('rank 0', limit=0.3)\n"
        "with guard.during('send'): pass\n"
        "time.sleep(1.5)\n"
        "for _ in range(6):\n"
        "    with guard.during('send'): time.sleep(0.2)\n"
    )
    assert done.returncode == 0, done.stderr


def test_the_board_shows_the_others_and_who_is_gone(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    mine = ActivityBoard("token", rank=0, world_size=3)
    code = (
        f"import tempfile; tempfile.tempdir = {str(tmp_path)!r}\n"
        "import sys, time\n"
        "from alignment.parallel.comms.watch import ActivityBoard\n"
        "board = ActivityBoard('token', rank=1, world_size=3)\n"
        "board.write(True, time.monotonic() - 7, b'rank 1 (stage 1)\\nall_reduce')\n"
        "print('ready', flush=True); sys.stdin.read()\n"
    )
    other = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
    assert other.stdout.readline() == b"ready\n"
    mine.hide()
    assert list(tmp_path.iterdir()) == []
    (line,) = mine.describe(time.monotonic())
    assert line.startswith("rank 1 (stage 1): in all_reduce for 7.") and "ended" not in line
    assert mine.gone() == []
    other.kill()
    other.wait()
    other.stdin.close(), other.stdout.close()
    assert mine.gone() == [1]
    assert mine.describe(time.monotonic())[0].endswith("; its process has ended")


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        ("AssertionError('score.weight came where')", "\n  rank 1 ended with AssertionError: score.weight came where"),
        ("UserError('row 3 is empty')", "\n  rank 1 ended with error: row 3 is empty"),
        ("CommunicationError('rank 2 is gone')", ""),
    ],
)
def test_what_ended_a_process_is_said_by_those_who_miss_it(error, cause, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    code = (
        f"import tempfile; tempfile.tempdir = {str(tmp_path)!r}\n"
        "from alignment.errors import UserError\n"
        "from alignment.parallel.comms import guard\n"
        "from alignment.parallel.comms.watch import ActivityBoard\n"
        "board = ActivityBoard('token', rank=1, world_size=2)\n"
        "guard.Guard('rank 1').use(board)\n"
        "board.write(True, 0.0, b'rank 1\\nall_reduce')\n"
        "from alignment.parallel.comms.guard import CommunicationError\n"
        f"guard.leave_cause({error})\n"
    )
    guard = Guard("rank 0")
    guard.watch.board = ActivityBoard("token", rank=0, world_size=2)
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=60)
    with pytest.raises(CommunicationError) as caught, guard.during("gather"):
        raise RuntimeError("reset")
    assert str(caught.value) == f"rank 0: gather failed: ended processes: rank 1 (reset){cause}"


def test_those_who_ask_at_the_same_time_all_see_who_is_gone(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    code = (
        f"import tempfile; tempfile.tempdir = {str(tmp_path)!r}\n"
        "import sys, time\n"
        "from alignment.parallel.comms.watch import ActivityBoard\n"
        "rank = int(sys.argv[1])\n"
        "board = ActivityBoard('token', rank=rank, world_size=3)\n"
        "board.write(True, time.monotonic(), b'here')\n"
        "print('ready', flush=True)\n"
        "while rank == 1: board.gone()\n"
    )
    mine = ActivityBoard("token", rank=0, world_size=3)
    asker, dead = (
        subprocess.Popen([sys.executable, "-c", code, rank], stdout=subprocess.PIPE, cwd=ROOT) for rank in "12"
    )
    try:
        assert dead.stdout.read() == b"ready\n" and dead.wait() == 0 and asker.stdout.readline() == b"ready\n"
        assert {tuple(mine.gone()) for _ in range(20_000)} == {(2,)}
    finally:
        asker.kill()
        asker.wait()
        asker.stdout.close(), dead.stdout.close()


def test_a_process_that_is_still_dying_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    board = ActivityBoard("token", rank=0, world_size=2)
    answers = iter([False, False, True])
    monkeypatch.setattr(ActivityBoard, "_is_gone", lambda board, rank: next(answers))
    assert board.gone() == []
    guard = Guard("rank 0")
    guard.watch.board = board
    with (
        pytest.raises(CommunicationError, match=r"send failed: ended processes: rank 1 \(reset\)"),
        guard.during("send"),
    ):
        raise RuntimeError("reset")


class FakeTask:
    """An operation on a device that the host has only queued."""

    def __init__(self) -> None:
        self.done = False

    def is_completed(self) -> bool:
        return self.done


def queue(guard: Guard, operation: str) -> FakeTask:
    task = FakeTask()
    with guard.during(operation) as going_on:
        going_on.task = task
    return task


def test_an_operation_goes_on_until_its_task_has_completed():
    guard, start = Guard("rank 0", limit=100.0), time.monotonic()
    first, second = queue(guard, "all_reduce (gradients)"), queue(guard, "broadcast (weights)")
    assert guard.watch.overdue(start + 99) == ""
    late = guard.watch.overdue(start + 101)
    assert late.startswith("rank 0: all_reduce (gradients) has not ended after 101.0 s (the limit is 100 s)")
    first.done = True
    assert guard.watch.overdue(start + 101).startswith("rank 0: broadcast (weights) has not ended")
    second.done = True
    assert guard.watch.overdue(start + 1000) == ""


def test_a_task_that_is_done_when_the_call_returns_is_not_kept():
    guard = Guard("rank 0", limit=1.0)
    task = FakeTask()
    task.done = True
    with guard.during("all_reduce") as going_on:
        going_on.task = task
    task.done = False
    assert guard.watch.overdue(time.monotonic() + 100) == ""


def test_a_task_that_fails_is_over():
    guard, task = Guard("rank 0", limit=1.0), FakeTask()
    task.is_completed = mock.Mock(side_effect=[False, RuntimeError("an illegal address")])
    with guard.during("all_reduce") as going_on:
        going_on.task = task
    assert guard.watch.overdue(time.monotonic() + 100) == ""


def test_operations_may_be_queued_while_the_watch_looks():
    guard, stop, failures = Guard("rank 0", limit=100.0), threading.Event(), []

    def look() -> None:
        while not stop.is_set():
            try:
                guard.watch.overdue(time.monotonic())
            except RuntimeError as error:
                failures.append(error)
                return

    looking = threading.Thread(target=look)
    looking.start()
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    tasks = []
    for number in range(2000):
        tasks.append(queue(guard, "all_reduce"))
        if number > 30:
            tasks[number - 30].done = True
    sys.setswitchinterval(before)
    stop.set()
    looking.join()
    for task in tasks:
        task.done = True  # or the watch would end this process at its limit
    assert failures == []
    assert guard.watch.overdue(time.monotonic() + 1000) == ""


def test_the_board_shows_a_queued_operation_until_it_has_completed(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    guard = Guard("rank 0", limit=100.0)
    guard.watch.board = ActivityBoard("token", rank=0, world_size=2)
    seen = ActivityBoard("token", rank=1, world_size=2)
    task, start = queue(guard, "all_reduce"), time.monotonic()
    assert seen.describe(start + 7)[0].startswith("rank 0: in all_reduce for 7.0 s")
    with guard.during("broadcast"):
        pass
    guard.watch.overdue(start)
    assert seen.describe(start + 7)[0].startswith("rank 0: in all_reduce for 7.0 s")
    task.done = True
    guard.watch.overdue(start)
    assert seen.describe(time.monotonic())[0].startswith("rank 0: busy on its own after all_reduce")


@pytest.mark.parametrize(
    ("wait", "status", "said"),
    [
        ("time.sleep(60)", 75, "rank 0: all_reduce has not ended after "),
        # As a call that waits for a device and does not let other threads run.
        ("ctypes.PyDLL(None).sleep(60)", 1, "Timeout (0:00:01)!\n"),
    ],
)
def test_a_task_that_never_completes_ends_the_process(wait, status, said):
    done = run(
        "import ctypes, time\n"
        "from alignment.parallel.comms.guard import Guard\n"
        "class Task:\n"
        "    def is_completed(self): return False\n"
        "guard = Guard('rank 0', limit=1.0)\n"
        "with guard.during('all_reduce') as operation: operation.task = Task()\n"
        "time.sleep(0.7)\n"
        f"{wait}"
    )
    assert (done.returncode, done.stderr[: len(said)]) == (status, said)
