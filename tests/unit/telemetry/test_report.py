"""The report shows what is there, escapes what users wrote, and needs no network."""

from __future__ import annotations

import base64
import json
import math
import re

import pytest

from alignment.telemetry.report import write_report
from alignment.telemetry.report_sections import argument_rows, comparison, hacking_charts, ledger_rows, summary_cards
from alignment.telemetry.writers import open_writers

EVIL = '<script>alert("x")</script><img src=http://example.org/a.png>'


LEDGER = {
    "train": {
        "datasets": {"alpaca": {"selected": 52002, "used": 51990}},
        "rows": [
            {"dataset": "alpaca", "reason": "empty_answer", "effect": "dropped", "count": 2, "examples": [7, 9]},
            {"dataset": "alpaca", "reason": "truncated_left", "effect": "kept", "count": 10, "examples": []},
        ],
    },
    "eval": {"datasets": {"mine": {"selected": 3, "used": 3}}, "rows": []},
}


@pytest.fixture
def run_folder(tmp_path):
    """A folder as a short run leaves it."""
    writers = open_writers(["none"], output_dir=tmp_path)
    writers.write(0, {"eval/true_score": 0.3})
    for step in range(1, 5):
        writers.write(
            step,
            {"train/reward": step / 2, "train/kl_divergence": step / 10, "value/loss": math.nan, f"policy/{EVIL}": 1.0},
        )
    writers.write(4, {"eval/true_score": 0.5, "rollout/length_correlation": 0.1})
    for step in (0, 4):
        rows = [{"prompt": f"p{i} {EVIL}", "response": f"r{i} at {step}", "score": i * 1.0} for i in range(8)]
        writers.write_samples(step, rows)
    writers.close()
    (tmp_path / "ledger.json").write_text(json.dumps(LEDGER))
    (tmp_path / "arguments.json").write_text(json.dumps({"kl_coeff": {"value": 0.02, "origin": "file"}}))
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / "calibration.png").write_bytes(b"\x89PNG")
    return tmp_path


def test_everything_is_on_the_page(run_folder):
    path = write_report(run_folder, title=f"Demo {EVIL}", summary={"True score": (0.3, 0.5), "Seconds": 12})
    assert path == run_folder / "report.html"
    page = path.read_text()
    for text in (
        "steps 0 to 4", "change +0.2", "eval/true_score bought with KL", "train/reward bought with KL",
        "rollout/length_correlation", "4 NaN or infinite", "r7 at 4", "r7 at 0", "52,002", "kl_coeff", "file",
        base64.b64encode(b"\x89PNG").decode(),
    ):  # fmt: skip
        assert text in page, text
    assert "<title>Demo &lt;" in page
    assert f'<div class="quiet">{run_folder.name}, steps 0 to 4</div>' in page


def test_nothing_runs_and_nothing_is_fetched(run_folder):
    page = write_report(run_folder, title=EVIL, summary={EVIL: EVIL}).read_text()
    assert "<script" not in page
    assert "<img src" not in page
    assert "&lt;script&gt;" in page
    assert not re.search(r'(?:src|href)="(?!#|data:)', page)
    assert "url(" not in page
    assert "@import" not in page


def test_an_empty_folder_gives_an_honest_page(tmp_path):
    page = write_report(tmp_path / "new", title="t", summary={}).read_text()
    assert "no metrics and no samples" in page


def test_damaged_files_are_left_out(tmp_path):
    (tmp_path / "ledger.json").write_text("{")
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "a": 1.0}\n{"step": 2, "a"')
    page = write_report(tmp_path, title="t", summary={}).read_text()
    assert "steps 1 to 1" in page
    assert "Data ledger" not in page


def test_cards_show_the_change():
    cards = summary_cards({"a": (0.5, 0.25), "b": ("x", "y"), "c": 7, "d": (1, 1)})
    assert [(card.before, card.value, card.change) for card in cards] == [
        ("0.5", "0.25", "-0.25"), ("x", "y", ""), ("", "7", ""), ("1", "1", "+0"),
    ]  # fmt: skip


@pytest.mark.parametrize(("count", "best", "others", "worst"), [(1, 1, 0, 0), (2, 1, 0, 1), (5, 3, 0, 2), (8, 3, 2, 3)])
def test_each_sample_is_shown_once_ranked(count, best, others, worst):
    rows = [{"step": 1, "prompt": str(i), "response": "", "score": float(i)} for i in range(count)]
    result = comparison({1: rows})
    assert (len(result.best), len(result.others), len(result.worst)) == (best, others, worst)
    shown = [row.last["score"] for row in (*result.best, *result.others, *result.worst)]
    assert shown == sorted((row["score"] for row in rows), reverse=True)


def test_samples_of_both_evaluations_meet_by_prompt():
    first = [{"prompt": "b", "response": "old b", "score": 1.0}, {"prompt": "b", "response": "other b", "score": 1.0}]
    last = [{"prompt": "a", "response": "new a", "score": None}, {"prompt": "b", "response": "new b", "score": 0.0}]
    result = comparison({0: first, 5: [{"prompt": "a"}], 9: last})
    assert (result.first_step, result.last_step) == (0, 9)
    (best,) = result.best
    assert (best.first["response"], best.last["response"]) == ("old b", "new b")
    assert result.worst[0].first is None
    pairs = comparison({0: first, 9: first[:1] + first})
    assert [row.first and row.first["response"] for row in (*pairs.best, *pairs.worst)] == ["old b", "other b", None]
    assert comparison({}) is None


def test_training_samples_are_shown_where_nothing_was_evaluated(tmp_path):
    writers = open_writers(["none"], output_dir=tmp_path)
    for step in (1, 2):
        writers.write_samples(step, [{"prompt": f"p{step}", "response": f"r{step}", "score": 1, "source": "training"}])
    writers.close()
    page = write_report(tmp_path, title="run", summary={}).read_text()
    assert "Responses of the last training rollout by score.</p>" in page
    assert "r2" in page and "r1" not in page and "not sampled" not in page
    writers = open_writers(["none"], output_dir=tmp_path, resume_step=2)
    writers.write_samples(2, [{"prompt": "p", "response": "evaluated", "score": 1.0}])
    writers.close()
    page = write_report(tmp_path, title="run", summary={}).read_text()
    assert "Responses of the last evaluation by score.</p>" in page
    assert "evaluated" in page and "r2" not in page


def test_hacking_charts_pair_each_evaluation_with_the_kl_of_its_step():
    series = {"train/kl_divergence": [(1, 0.1), (2, 0.2), (3, 0.3)], "eval/true_score": [(0, 0.5), (2, 0.6), (9, 0.7)]}
    (chart,) = hacking_charts(series)
    assert chart.title == "eval/true_score bought with KL"
    assert str(chart.svg).count("<circle") == 4
    assert hacking_charts({"eval/true_score": [(0, 0.5), (2, 0.6)]}) == []


def test_ledger_has_a_row_for_each_role_and_dataset():
    assert ledger_rows(LEDGER) == [
        ("train", "alpaca", "52,002", "51,990", ["empty_answer: 2 dropped (row 7, 9)", "truncated_left: 10 kept"]),
        ("eval", "mine", "3", "3", []),
    ]
    assert ledger_rows(None) == []


def test_arguments_flat_or_grouped():
    flat = {"seed": {"value": 10000, "origin": "default"}}
    assert argument_rows(flat) == [("seed", "10000", "default")]
    assert argument_rows({"training": flat, "x": 1}) == [("seed", "10000", "default"), ("x", "1", "")]
    assert argument_rows(None) == []
