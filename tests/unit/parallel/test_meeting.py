"""Processes that cannot meet say by which variables they tried, in bounded time."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from alignment.errors import UserError
from alignment.parallel.comms.guard import CommunicationError
from alignment.parallel.comms.meeting import meeting, read_world

FULL = {
    "PADDLE_TRAINERS_NUM": "4",
    "PADDLE_TRAINER_ID": "3",
    "PADDLE_CURRENT_ENDPOINT": "127.0.0.1:6173",
    "PADDLE_TRAINER_ENDPOINTS": "127.0.0.1:6170,127.0.0.1:6171,127.0.0.1:6172,127.0.0.1:6173",
    "PADDLE_MASTER": "127.0.0.1:6160",
}


def _without(*names):
    return {name: value for name, value in FULL.items() if name not in names}


@pytest.mark.parametrize(
    ("environment", "world"),
    [
        ({}, (1, 0)),
        ({"PADDLE_TRAINERS_NUM": "1", "PADDLE_TRAINER_ID": "0"}, (1, 0)),
        ({"PADDLE_TRAINERS_NUM": ""}, (1, 0)),
        (FULL, (4, 3)),
        (_without("PADDLE_MASTER"), (4, 3)),
        (_without("PADDLE_TRAINER_ENDPOINTS"), (4, 3)),
    ],
)
def test_the_launchers_variables(environment, world):
    assert read_world(environment) == world


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        (
            {"PADDLE_TRAINERS_NUM": "2"},
            "^PADDLE_TRAINERS_NUM=2 in the environment: this is one of 2 processes, but "
            "PADDLE_TRAINER_ID, PADDLE_CURRENT_ENDPOINT, PADDLE_MASTER or PADDLE_TRAINER_ENDPOINTS or",
        ),
        (_without("PADDLE_CURRENT_ENDPOINT"), "PADDLE_CURRENT_ENDPOINT is not set"),
        (_without("PADDLE_MASTER", "PADDLE_TRAINER_ENDPOINTS"), "PADDLE_MASTER or PADDLE_TRAINER_ENDPOINTS or"),
        ({"PADDLE_TRAINERS_NUM": "two"}, "PADDLE_TRAINERS_NUM='two' in the environment is not an integer"),
        ({**FULL, "PADDLE_TRAINER_ID": ""}, "PADDLE_TRAINER_ID is not set"),
        ({**FULL, "PADDLE_TRAINER_ID": "4"}, "PADDLE_TRAINERS_NUM=4, PADDLE_TRAINER_ID=4"),
        ({"PADDLE_TRAINERS_NUM": "0"}, "PADDLE_TRAINERS_NUM=0"),
        ({"PADDLE_TRAINER_ID": "1"}, "PADDLE_TRAINER_ID=1"),
    ],
)
def test_half_of_the_variables_is_one_message_that_names_them(environment, says):
    with pytest.raises(UserError, match=says) as caught:
        read_world(environment)
    assert "paddle.distributed.launch" in str(caught.value) and "unset" in str(caught.value)


def test_a_failure_of_the_framework_names_the_variables(monkeypatch):
    monkeypatch.setenv("PADDLE_TRAINERS_NUM", "2")
    with (
        pytest.raises(CommunicationError, match=r"rank 0: .*PADDLE_TRAINERS_NUM=2.*\(port taken\)$"),
        meeting("rank 0", limit=60),
    ):
        raise RuntimeError("something\nport taken")


def test_a_meeting_that_succeeds_leaves_nothing_behind():
    ended = []
    before = signal.signal(signal.SIGALRM, lambda *arguments: ended.append(True))
    try:
        with meeting("rank 0", limit=0.3):
            pass
        time.sleep(0.6)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert ended == []


INITIALISE = """
from alignment.device.host import prepare_host
prepare_host()
from alignment.parallel.initialise import initialise
from alignment.architecture.layout import Layout
initialise(device="cpu", seed=1, layout=Layout(data=2), timeout=1.5)
"""


def test_nobody_waits_for_ever_for_a_process_that_does_not_come():
    """Paddle holds Python's lock while it waits; the limit holds all the same."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        master = f"127.0.0.1:{probe.getsockname()[1]}"
    variables = {"PADDLE_TRAINERS_NUM": "2", "PADDLE_TRAINER_ID": "0", "PADDLE_MASTER": master}
    environment = {**os.environ, **variables, "PADDLE_CURRENT_ENDPOINT": master}
    command = [sys.executable, "-c", INITIALISE]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == -signal.SIGALRM, done.stderr[-3000:]
    said = "error: rank 0 (stage 0, tensor 0, batch 0): within 1.5 s (distributed_timeout) the processes of this run"
    assert said in done.stderr and f"PADDLE_TRAINERS_NUM=2, PADDLE_TRAINER_ID=0, {'PADDLE_CURRENT'}" in done.stderr
    assert "Traceback" not in done.stderr
