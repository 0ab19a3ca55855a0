"""Programs in child processes: their tests by hand, their limits, and that nothing is left of them."""

import json
import os
import sys
import time
from pathlib import Path

import pytest

from alignment.errors import RewardError
from alignment.rollout.rewards import sandbox
from alignment.rollout.rewards.sandbox import Limits, run_all, run_program
from alignment.rollout.rule_rewards import code

SQUARE = "Sure:\n```python\ndef square(x):\n    return x * x\n```\nDone."
ASSERTS = "assert square(3) == 9\nassert square(-1) == 1"
LIMITS = Limits(cpu_seconds=1, wall_seconds=15, memory_bytes=256 * 2**20, output_bytes=1000)


def test_asserts_run_after_the_program():
    responses = [SQUARE, "def square(x): return 9", "square = 3", "exit()", "import os; os._exit(0)", "def ("]
    found = code([""] * 6, responses, [ASSERTS] * 6)
    assert found["score"] == [1, 0, 0, 0, 0, 0], "a program that exits before its tests has not passed them"
    assert found["timeout"] == found["memory"] == [0] * 6


def test_standard_input_and_output():
    tests = json.dumps({"inputs": ["1 2\n", "5 5\n"], "outputs": ["3", "10\n\n"]})
    responses = ["print(sum(map(int, input().split())))", "print(3)"]
    assert code(["", ""], responses, [tests] * 2)["score"] == [1, 0]
    assert code(["", ""], responses, [tests] * 2, partial=True)["score"] == [1, 0.5]


@pytest.mark.parametrize(
    ("source", "timed_out", "out_of_memory"),
    [
        ("while True: pass", True, False),
        ("x = 'a' * 2**30", False, True),
        ("print('a' * 10**6)", False, False),
        ("raise SystemExit(3)", False, False),
    ],
)
def test_a_program_beyond_its_limits_fails(source, timed_out, out_of_memory):
    ran = run_program(source, "", LIMITS)
    assert (ran.is_ok, ran.timed_out, ran.out_of_memory) == (False, timed_out, out_of_memory)
    assert len(ran.output) <= LIMITS.output_bytes


@pytest.mark.parametrize("has_namespaces", [True, False])
def test_sleep_is_ended_by_the_clock_and_nothing_is_left(has_namespaces, monkeypatch):
    """Also where the system gives no namespaces: then the process group alone is what is killed."""
    if not has_namespaces:
        assert "libc.unshare" in sandbox._BOOT
        monkeypatch.setattr(sandbox, "_BOOT", sandbox._BOOT.replace("libc.unshare", "-1 * int"))
    mark = f"rewards-{os.getpid()}-{time.time_ns()}"
    child = f"[sys.executable, '-c', 'import time; time.sleep(60)', '{mark}']"
    source = f"import subprocess, sys, time\nsubprocess.Popen({child})\n"
    ran = run_program(source + "time.sleep(60)", "", Limits(wall_seconds=2.0))
    assert ran.timed_out and not ran.is_ok
    assert run_program(source, "", LIMITS).is_ok
    deadline = time.monotonic() + 5
    while (left := _with_argument(mark)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left == []


def _with_argument(mark):
    """Return the processes that have ``mark`` among their arguments."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found += [place] if mark.encode() in place.read_bytes() else []
        except OSError:
            continue
    return found


@pytest.mark.parametrize(
    "replace",
    [
        "os.path.lexists(name) and os.unlink(name)",
        "shutil.rmtree('.', ignore_errors=True)",
        "os.path.lexists(name) and os.unlink(name); os.mkfifo(name)",
        "os.path.lexists(name) and os.unlink(name); os.symlink('/proc/self/cmdline', name)",
    ],
)
def test_a_program_that_replaces_files_of_its_folder_loses_no_output_and_passes_off_no_other(replace):
    source = f"import os, shutil, sys\nprint('mine')\nfor name in ('out', 'err'):\n    {replace}\nraise SystemExit(3)"
    assert run_program(source, "", LIMITS) == (False, "mine\n", False, False)


def test_output_is_read_from_its_start_wherever_the_program_leaves_its_place():
    source = "import os\nos.write(1, b'abcdef')\nos.lseek(1, 2, os.SEEK_SET)\nos.write(1, b'X')"
    assert run_program(source, "", LIMITS) == (True, "abXdef", False, False)


def test_the_same_program_prints_a_set_in_the_same_order():
    source = "print({f'name{n}' for n in range(40)})"
    runs = run_all([(source, "")] * 3, LIMITS, processes=2)
    assert len({ran.output for ran in runs}) == 1 and runs[0].is_ok


def test_results_are_in_the_order_of_the_programs():
    programs = [(f"import time; time.sleep({0.2 if n == 0 else 0}); print({n})", "") for n in range(4)]
    assert [ran.output for ran in run_all(programs, LIMITS, processes=2)] == ["0\n", "1\n", "2\n", "3\n"]


def test_limits_that_cannot_be_set_are_an_error_and_not_a_zero(monkeypatch):
    monkeypatch.setattr(sandbox, "_BOOT", "raise OSError('not permitted')")
    with pytest.raises(RewardError, match="no program could be started under its limits(?s:.*)not permitted"):
        run_program("print(1)", "", LIMITS)


@pytest.mark.parametrize(
    ("label", "says"),
    [
        (None, "row 0 has no tests.*label_key"),
        ('{"inputs": [], "outputs": []}', "row 0 has no tests"),
        ('{"inputs": ["1"], "outputs": []}', "of equal length"),
        ('{"input": 3}', "KeyError: 'inputs'"),
    ],
)
def test_a_row_without_tests_is_named(label, says):
    with pytest.raises(RewardError, match=says):
        code([""], ["print(1)"], [label])


@pytest.mark.parametrize(
    ("options", "says"),
    [({"cpu_second": 1}, "did you mean 'cpu_seconds'"), ({"memory_bytes": 0}, "memory_bytes must be a number above 0")],
)
def test_limits_by_another_name_are_refused(options, says):
    with pytest.raises(RewardError, match=says):
        code([""], ["print(1)"], ["assert True"], **options)


def test_a_program_sees_neither_the_environment_nor_the_packages_of_the_folder(monkeypatch):
    monkeypatch.setenv("SECRET_OF_THE_RUN", "x")
    ran = run_program("import os, sys\nprint('SECRET_OF_THE_RUN' in os.environ, os.getcwd() in sys.path)", "", LIMITS)
    assert ran.output.split() == ["False", "False"], sys.platform
