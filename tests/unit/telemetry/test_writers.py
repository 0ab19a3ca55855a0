"""Writers: JSON lines always, boards when asked, all cut back alike on resume."""

from __future__ import annotations

import json
import math
import sys
import types

import pytest

from alignment.errors import UserError
from alignment.telemetry import boards
from alignment.telemetry.jsonl import read_json_lines
from alignment.telemetry.writers import open_writers


@pytest.fixture
def tensorboard(monkeypatch):
    """A stand-in for tensorboardX; returns every (folder, tag, value, step) that was written."""
    calls = []

    class SummaryWriter:
        def __init__(self, logdir):
            self.logdir = logdir

        def add_scalar(self, tag, value, step):
            calls.append((tag, value, step))

        def close(self):
            calls.append("closed")

    module = types.ModuleType("tensorboardX")
    module.SummaryWriter = SummaryWriter
    module.__spec__ = types.SimpleNamespace(name="tensorboardX")
    monkeypatch.setitem(sys.modules, "tensorboardX", module)
    return calls


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_json_lines_are_written_without_any_board(tmp_path):
    writers = open_writers(["none"], output_dir=tmp_path / "new", run_name=None, resume_step=0)
    writers.write(1, {"policy/loss": 0.5})
    writers.write_samples(
        1, [{"prompt": "p", "response": "r", "score": 1.0}, {"prompt": "q", "response": "", "score": None}]
    )
    writers.close()
    writers.close()
    assert read(tmp_path / "new" / "metrics.jsonl") == [{"step": 1, "policy/loss": 0.5}]
    assert [row["prompt"] for row in read(tmp_path / "new" / "samples.jsonl")] == ["p", "q"]
    assert not (tmp_path / "new" / "runs").exists()


def test_visualdl_holds_the_kept_and_the_new_steps(tmp_path):
    reader = pytest.importorskip("visualdl.reader.reader")
    for resume_step, steps in ((0, (1, 2, 3)), (2, (3, 4))):
        writers = open_writers(["visualdl"], output_dir=tmp_path, run_name="name", resume_step=resume_step)
        for step in steps:
            writers.write(step, {"policy/loss": step + resume_step / 10, "bad": math.nan})
        writers.close()
    folder = tmp_path / "runs" / "visualdl"
    (file,) = folder.iterdir()
    assert file.name.startswith("vdlrecords.")
    records = reader.LogReader(file_path=str(file)).get_data("scalar", "policy/loss")
    assert [(record.id, round(record.value, 4)) for record in records] == [(1, 1.0), (2, 2.0), (3, 3.2), (4, 4.2)]


def test_tensorboard_gets_finite_values_and_the_earlier_steps_on_resume(tmp_path, tensorboard):
    old = tmp_path / "runs" / "tensorboard" / "events.out.tfevents.1"
    old.parent.mkdir(parents=True)
    old.write_text("")
    (old.parent / "notes.txt").write_text("of the user")
    writers = open_writers(["none"], output_dir=tmp_path)
    writers.write(1, {"a": 1.0, "b": math.nan})
    writers.write(2, {"a": 2.0})
    writers.close()
    writers = open_writers(["tensorboard"], output_dir=tmp_path, resume_step=1)
    writers.write(2, {"a": 2.5, "b": math.inf})
    writers.close()
    writers.close()
    assert tensorboard == [("a", 1.0, 1), ("a", 2.5, 2), "closed"]
    assert [path.name for path in old.parent.iterdir()] == ["notes.txt"]


def test_all_opens_what_is_installed(tmp_path, tensorboard, monkeypatch):
    installed = {"tensorboardX"}
    monkeypatch.setattr(boards.importlib.util, "find_spec", lambda name: name if name in installed else None)
    writers = open_writers(["all"], output_dir=tmp_path)
    writers.write(1, {"a": 1.0})
    writers.close()
    assert tensorboard == [("a", 1.0, 1), "closed"]


@pytest.mark.parametrize(
    ("report_to", "message"),
    [
        (["visualdll"], r"unknown 'visualdll' \(allowed: visualdl, tensorboard, wandb, all, none\)"),
        (["none", "visualdl"], r"'none' contradicts"),
        (["wandb"], r"'wandb' needs the package wandb \(run: pip install wandb\)"),
    ],
)
def test_refusals_touch_no_file(tmp_path, report_to, message, monkeypatch):
    monkeypatch.setattr(boards.importlib.util, "find_spec", lambda name: None)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    with pytest.raises(UserError, match=message):
        open_writers(report_to, output_dir=tmp_path)
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1}\n'


def test_wandb_is_not_given_old_steps_again(tmp_path, monkeypatch):
    logged, settings = [], {}
    run = types.SimpleNamespace(log=lambda metrics, step: logged.append((step, metrics)), finish=lambda: None)
    module = types.ModuleType("wandb")
    module.init = lambda **given: settings.update(given) or run
    module.__spec__ = types.SimpleNamespace(name="wandb")
    monkeypatch.setitem(sys.modules, "wandb", module)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "a": 1.0}\n')
    writers = open_writers(["wandb"], output_dir=tmp_path, run_name="n", resume_step=1)
    writers.write(2, {"a": 2.0})
    writers.close()
    assert logged == [(2, {"a": 2.0})]
    assert settings == {"project": "alignment", "name": "n", "dir": str(tmp_path / "runs" / "wandb")}


@pytest.mark.parametrize(("evaluates_again", "kept"), [(True, 0), (False, 1)])
def test_an_evaluation_that_comes_again_is_dropped_and_nothing_else(tmp_path, evaluates_again, kept):
    first = open_writers("none", output_dir=tmp_path)
    for step in (1, 2):
        first.write(step, {"loss": 1.0})
        first.write(step, {"eval/loss": 2.0})
        first.write_samples(step, [{"prompt": "p", "response": "r"}, {"prompt": "p", "source": "training"}])
    first.close()
    open_writers("none", output_dir=tmp_path, resume_step=2, evaluates_again=evaluates_again).close()
    metrics = list(read_json_lines(tmp_path / "metrics.jsonl"))
    assert [record["step"] for record in metrics if "loss" in record] == [1, 2]
    assert [record["step"] for record in metrics if "eval/loss" in record] == [1, 2][: 1 + kept]
    samples = list(read_json_lines(tmp_path / "samples.jsonl"))
    assert [row["step"] for row in samples if "source" in row] == [1, 2]
    assert [row["step"] for row in samples if "source" not in row] == [1, 2][: 1 + kept]
