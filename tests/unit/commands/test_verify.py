"""``verify_layout`` when a layout cannot be compared: the table names how it ended and goes on."""

from __future__ import annotations

import pytest

from alignment.commands import verify as verify_layout
from alignment.errors import ProcessError, UserError
from alignment.parity import check
from alignment.trainers.registered import TRAINERS

DEATH = ProcessError("train_all in 2 processes failed with exit status 1:\n[rank 1] was ended by SIGILL (...)")


@pytest.mark.parametrize(("error", "word"), [(DEATH, "FAILED"), (UserError("vocab of 3"), "refused")])
def test_what_dies_and_what_is_refused_are_told_apart(error, word, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(verify_layout, "make_models", lambda *_: None)
    layouts = {name: verify_layout.LAYOUTS[name] for name in list(verify_layout.LAYOUTS)[:2]}
    monkeypatch.setattr(verify_layout, "LAYOUTS", layouts)
    asked = []

    def fail(jobs, *, world_size, timeout):
        asked.append(world_size)
        raise error

    monkeypatch.setattr(check, "run_trainers", fail)
    monkeypatch.setattr(check, "write_arguments", lambda *_: tmp_path)
    assert verify_layout.main(["--table"]) == 1
    printed = capsys.readouterr().out
    assert printed.count(word) == 2 * len(list(TRAINERS)) and str(error) in printed
    assert len(asked) == 2, "the second layout is tried after the first has failed"
