"""Ranks that refuse, fail, die or do not end: what the caller is told."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from alignment.errors import DataError, ProcessError, UserError
from alignment.parallel.local_ranks import run_ranks

HERE = Path(__file__).parent


def act(what: str) -> str:
    """Be a rank; rank 1 is the one to which something happens."""
    if os.environ["PADDLE_TRAINER_ID"] == "1":
        if what == "refuse":
            raise DataError("no rows")
        if what == "fail":
            raise KeyError("half of it")
        if what == "die":
            os.kill(os.getpid(), signal.SIGILL)
    elif what != "well":
        time.sleep(60)
    return f"{what} {os.environ['PADDLE_TRAINER_ID']} {os.environ['CUDA_VISIBLE_DEVICES']}"


def attempt(what: str, timeout: float = 60.0):
    return run_ranks("test_local_ranks:act", what, world_size=2, timeout=timeout, search_path=[HERE])


def test_results_come_by_rank_and_ranks_see_no_gpu(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert attempt("well") == ["well 0 ", "well 1 "]


def test_a_rank_that_dies_is_named_with_its_signal():
    with pytest.raises(ProcessError, match=r"(?s)act in 2 processes .*\[rank 1\] was ended by SIGILL \(Illegal ins"):
        attempt("die")


def test_a_refusal_is_no_failure_of_the_process():
    with pytest.raises(UserError, match=r"\[rank 1\] error: no rows") as caught:
        attempt("refuse")
    assert not isinstance(caught.value, ProcessError)


def test_an_exception_is_a_failure():
    with pytest.raises(ProcessError, match=r"(?s)failed with exit status 1:.*\[rank 1\] Traceback.*half of it"):
        attempt("fail")


def test_a_run_without_end_is_ended():
    with pytest.raises(ProcessError, match="did not end within 8 s"):
        attempt("sleep", timeout=8.0)
