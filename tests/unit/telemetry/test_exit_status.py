"""How the end of a process is put into words."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from alignment.telemetry.exit_status import describe_exit


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (3, "failed with exit status 3"),
        (-signal.SIGSEGV, "was ended by SIGSEGV (Segmentation fault)"),
        (-200, "was ended by signal 200"),
    ],
)
def test_a_status_is_put_into_words(status, words):
    assert describe_exit(status) == words


@pytest.mark.parametrize(
    ("name", "hint"),
    [("SIGILL", "the processor lacks an instruction"), ("SIGKILL", "memory ran out"), ("SIGBUS", "is full")],
)
def test_a_process_that_a_signal_ended_is_described_with_its_name_and_what_it_often_means(name, hint):
    code = f"import os, signal; os.kill(os.getpid(), signal.{name})"
    words = describe_exit(subprocess.run([sys.executable, "-c", code], check=False).returncode)
    assert words.startswith(f"was ended by {name} (") and hint in words
