"""Progress: plain lines without a terminal, a live bar on one."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from alignment.telemetry import progress
from alignment.telemetry.progress import Progress, format_seconds


@pytest.fixture
def lines(monkeypatch):
    """The log lines a progress writes."""
    written: list[str] = []
    monkeypatch.setattr(progress, "info", written.append)
    return written


def test_plain_lines_only_when_there_is_something_to_show(lines, capsys):
    with Progress(20, "PPO", enabled=True) as bar:
        bar.advance()
        bar.advance(1, reward=0.51234, kl=0.0213)
        bar.advance(8)
        bar.advance(reward=float("nan"), steps="warm-up")
    assert len(lines) == 2
    assert re.fullmatch(r"PPO  2/20 \(10%\)  reward 0\.5123  kl 0\.0213  elapsed 0:00:00  left 0:00:00", lines[0]), (
        lines[0]
    )
    assert lines[1].startswith("PPO 11/20 (55%)  reward nan  steps warm-up  ")
    assert all(line.isascii() and line.isprintable() for line in lines)
    assert capsys.readouterr().err == ""


def test_time_left_counts_only_steps_of_this_run(lines, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with Progress(100, "PPO", enabled=False, start=50) as bar:
        now[0] = 60.0
        bar.advance(10, reward=1.0)
    assert lines == ["PPO  60/100 (60%)  reward 1  elapsed 0:01:00  left 0:04:00"]


def test_bar_on_a_terminal(monkeypatch, lines):
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=140)
    monkeypatch.setattr(progress, "stderr_console", lambda: console)
    with Progress(4, "SFT [1/3]", enabled=True) as bar:
        bar.advance(2, loss="0.25")
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.getvalue())
    assert "SFT [1/3]" in text
    assert "50%" in text
    assert "2/4" in text
    assert "loss 0.25" in text
    assert lines == []


def test_disabled_on_a_terminal_writes_lines(monkeypatch, lines):
    monkeypatch.setattr(progress, "stderr_console", lambda: Console(file=io.StringIO(), force_terminal=True))
    with Progress(4, "SFT", enabled=False) as bar:
        bar.advance(1, loss=0.25)
    assert len(lines) == 1


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00:00"), (59.6, "0:01:00"), (3725, "1:02:05"), (-1, "0:00:00")])
def test_format_seconds(seconds, text):
    assert format_seconds(seconds) == text


def test_the_time_left_is_known_after_the_first_step(lines, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with Progress(4, "SFT", enabled=False) as bar:
        bar.advance(0, loss=2.0)
        now[0] = 10.0
        bar.advance(1, loss=1.0)
    assert [line.partition("left ")[2] for line in lines] == ["?", "0:00:30"]
