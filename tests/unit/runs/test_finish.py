"""The end of a run: whether it is evaluated once more, what is exported, and the numbers of the report."""

from __future__ import annotations

import contextlib
import json
from types import SimpleNamespace

import pytest

from alignment.parallel.roles import EVERYONE
from alignment.runs import finish

CARDS = ("eval/loss", "eval/accuracy", "eval/never")
LAST = {"step": 2, "eval/loss": 2.0, "eval/accuracy": 0.5}
RECORDS = [{"step": 0, "eval/loss": 3.0}, {"step": 1, "sft/loss": 9.0}, LAST]


@pytest.fixture
def end(tmp_path, monkeypatch):
    """Return a function that ends a run of four updates; it returns what was done and the summary of the report."""

    def run(*, best_step=None, evaluated_at=None, is_main=True, **training):
        done, reports = [], []
        (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in RECORDS))

        @contextlib.contextmanager
        def writing(folder, **options):
            reports.append(options)
            yield
            done.append("reported")

        monkeypatch.setattr(finish, "writing_report", writing)
        arguments = {"do_train": True, "evaluates": True, "load_best_model_at_end": True, **training}
        counters = SimpleNamespace(updates=4, evaluated_at=evaluated_at, best_step=best_step)
        learner = SimpleNamespace(name="policy", check_outputs=lambda: done.append("checked"))
        finish.finish_run(
            SimpleNamespace(
                parsed=SimpleNamespace(training=SimpleNamespace(**arguments)),
                topology=SimpleNamespace(is_main=is_main),
                ranks_of=lambda role: EVERYONE,
                output_dir=tmp_path,
                run_name="mine",
                signals=SimpleNamespace(deferred=lambda what: contextlib.nullcontext()),
            ),
            SimpleNamespace(
                counters=counters,
                evaluate=lambda: done.append("evaluated"),
                writers=SimpleNamespace(close=lambda: done.append("closed")),
                liveness=SimpleNamespace(describe=lambda: None),
                flat_rewards=SimpleNamespace(finish=lambda: None),
                is_stopped_at_best=False,
            ),
            SimpleNamespace(
                counters=counters,
                learners={"policy": learner},
                export=lambda *, best: done.append(f"exported, best: {best}") or {},
            ),
            title="SFT",
            cards=CARDS,
        )
        return done, reports

    return run


def test_the_report_shows_the_first_and_the_last_number_of_each_card(end):
    _, [report] = end(best_step=3)
    assert report["title"] == "SFT: mine"
    assert report["summary"] == {"updates": 4, "eval/loss": (3.0, 2.0), "eval/accuracy": 0.5, "best at update": 3}
    assert "best at update" not in end()[1][0]["summary"]
    assert end(is_main=False)[1] == []


@pytest.mark.parametrize(
    ("keys", "done"),
    [
        ({}, ["evaluated", "closed", "checked", "exported, best: True", "reported"]),
        ({"evaluated_at": 4}, ["closed", "checked", "exported, best: True", "reported"]),
        ({"evaluated_at": 3}, ["evaluated", "closed", "checked", "exported, best: True", "reported"]),
        ({"evaluates": False}, ["closed", "checked", "exported, best: True", "reported"]),
        ({"best_step": 2}, ["evaluated", "closed", "exported, best: True", "reported"]),
        (
            {"best_step": 2, "load_best_model_at_end": False},
            ["evaluated", "closed", "checked", "exported, best: False", "reported"],
        ),
        ({"do_train": False, "evaluated_at": 4}, ["evaluated", "closed", "reported"]),
    ],
)
def test_what_the_end_of_a_run_does(end, keys, done):
    assert end(**keys)[0] == done
