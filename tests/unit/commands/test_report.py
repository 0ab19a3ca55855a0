"""``alignment report``: pages of one run and of several, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from alignment.commands import report
from alignment.commands.main import main
from alignment.telemetry.plots import keep_scores
from alignment.telemetry.report.page import write_report
from alignment.telemetry.writers import open_writers


def status_of(verb, argv):
    """Return the exit status of the command."""
    with pytest.raises(SystemExit) as leaving:
        main([verb, *argv])
    return leaving.value.code or 0


@pytest.fixture(autouse=True)
def runs(tmp_path, monkeypatch):
    """Two runs of one name in two folders."""
    monkeypatch.chdir(tmp_path)
    for folder, scale in (("first/ppo", 1.0), ("second/ppo", 2.0)):
        writers = open_writers(["none"], output_dir=Path(folder))
        for step in range(3):
            writers.write(step, {"eval/reward": scale * step, "train/reward": scale * step})
        writers.close()


def test_one_run(capsys):
    assert status_of("report", ["first/ppo"]) == 0
    assert capsys.readouterr().out == "first/ppo/report.html\n"
    page = Path("first/ppo/report.html").read_text()
    assert "<h1>ppo</h1>" in page and "steps 0 to 2" in page and "change +2" in page
    assert status_of("report", ["first/ppo", "--output", "new/here.html"]) == 0
    assert Path("new/here.html").read_text() == page


def test_a_page_elsewhere_has_the_plots_and_leaves_the_run_as_it_is():
    keep_scores(Path("first/ppo/plots"), np.array([1.0, -0.5, 2.0]))
    before = sorted(Path("first").rglob("*"))
    assert status_of("report", ["first/ppo", "--output", "new/here.html"]) == 0
    assert sorted(Path("first").rglob("*")) == before
    assert status_of("report", ["first/ppo"]) == 0
    assert Path("first/ppo/plots/calibration.png").is_file()
    assert Path("new/here.html").read_text() == Path("first/ppo/report.html").read_text()


def test_several_runs_are_told_apart_by_their_folders(capsys):
    assert status_of("report", ["first/ppo", "second/../second/ppo/"]) == 0
    assert capsys.readouterr().out == "comparison.html\n"
    page = Path("comparison.html").read_text()
    assert "Comparison of 2 runs" in page
    assert "first/ppo: train/reward" in page and "second/ppo: train/reward" in page
    assert status_of("report", ["first/ppo", "second/ppo"]) == 0  # its own page is replaced


def test_labels_are_as_short_as_they_can_be():
    assert report.name_apart([Path("/x/a"), Path("/x/b")]) == ["a", "b"]
    assert report.name_apart([Path("/x/a/p"), Path("/x/b/p"), Path("/y/b/p")]) == ["x/a/p", "x/b/p", "y/b/p"]
    assert report.name_apart([Path("/p"), Path("/x/p")]) == ["/p", "x/p"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "the following arguments are required: RUN"),
        (["first"], "first is not the output folder of a run: it has no metrics.jsonl"),
        (["first/ppo", "nowhere"], "nowhere is not the output folder of a run"),
        (["first/ppo", "second/ppo", "first/../first/ppo"], "first/ppo is given twice"),
        (["first/ppo", "--output", "first"], "first is a folder"),
        (["first/ppo", "--output", "first/ppo/metrics.jsonl"], "metrics.jsonl exists and is not a report"),
        (["first/ppo", "second/ppo", "--output", "first/ppo/metrics.jsonl"], "exists and is not a report"),
    ],
)
def test_refusals_are_one_line_and_leave_everything_as_it_was(capsys, argv, message):
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    assert status_of("report", argv) == 2
    told = capsys.readouterr()
    assert message in told.err and told.err.startswith("error: ") and told.err.count("\n") == 1 and told.out == ""
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before


def test_the_title_that_the_run_gave_its_report_stays():
    write_report(Path("first/ppo"), title="PPO: <mine> & yours", summary={})
    for argv in (["first/ppo"], ["first/ppo"], ["first/ppo", "--output", "copy.html"]):
        assert status_of("report", argv) == 0
    for page in ("first/ppo/report.html", "copy.html"):
        assert "<h1>PPO: &lt;mine&gt; &amp; yours</h1>" in Path(page).read_text()
