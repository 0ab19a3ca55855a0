"""A signal is only noted while a run trains; before that, and on a second Ctrl-C, it ends the run at once."""

import contextlib
import ctypes
import os
import signal
import threading
import time

import pytest

from alignment.parallel.comms.stop_signals import Interrupted, StopSignals


def _send(number):
    os.kill(os.getpid(), number)
    for _ in range(100):  # handlers run between two instructions
        pass


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_run_that_does_not_train_yet(number):
    stop = StopSignals()
    with pytest.raises(Interrupted) as caught, stop.caught():
        _send(number)
    assert (caught.value.number, caught.value.status, caught.value.agreed) == (number, 128 + number, False)


def test_sigterm_is_noted_while_the_run_trains_however_often_it_comes(capfd):
    stop = StopSignals()
    with stop.caught(), stop.deferred("the update"):
        for _ in range(3):
            _send(signal.SIGTERM)
        assert stop.number == signal.SIGTERM
    assert capfd.readouterr().err == "SIGTERM: the update will be finished first\n"


def test_the_second_ctrl_c_ends_the_run_at_once(capfd):
    stop = StopSignals()
    with pytest.raises(Interrupted, match="ended by SIGINT"), stop.caught(), stop.deferred("the update"):
        _send(signal.SIGINT)
        assert stop.number == signal.SIGINT
        assert "press Ctrl-C again" in capfd.readouterr().err
        _send(signal.SIGINT)


def test_the_handlers_of_before_come_back():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with StopSignals().caught():
        assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] != before
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_signals_do_not_disturb_the_end_that_a_signal_began():
    """Launchers send SIGTERM several times; files are put away in between."""
    stop, ended = StopSignals(), []
    with pytest.raises(Interrupted), stop.caught():
        try:
            _send(signal.SIGTERM)
        finally:
            _send(signal.SIGTERM)
            ended.append(True)
    assert ended == [True]


def test_outside_of_the_main_thread_nothing_is_changed():
    before, seen = signal.getsignal(signal.SIGTERM), []

    def work():
        with StopSignals().caught():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


def test_a_noted_signal_breaks_no_system_call():
    """Paddle's stores take an interrupted call for a lost connection, and a save of several processes fails."""
    reader, writer = os.pipe()
    libc, stop = ctypes.CDLL(None, use_errno=True), StopSignals()

    def disturb():
        signal.pthread_kill(threading.main_thread().ident, signal.SIGTERM)
        time.sleep(0.2)
        os.write(writer, b"x")

    with stop.caught(), stop.deferred("the update"):
        timer = threading.Timer(0.2, disturb)
        timer.start()
        received = libc.read(reader, ctypes.create_string_buffer(1), 1)
        timer.join()
        assert stop.number == signal.SIGTERM
    assert received == 1, os.strerror(ctypes.get_errno())
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("is_training", [True, False])
def test_a_forked_child_ends_as_its_parent_wants(is_training):
    stop, (reader, writer) = StopSignals(), os.pipe()
    with stop.caught(), stop.deferred("the update") if is_training else contextlib.nullcontext():
        child = os.fork()
        if child == 0:
            try:
                os.write(writer, b"x")
                time.sleep(30)
            finally:
                os._exit(1)
        os.read(reader, 1)
        os.kill(child, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
    assert stop.number == 0
    os.close(reader)
    os.close(writer)
