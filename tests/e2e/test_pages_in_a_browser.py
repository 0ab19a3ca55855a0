"""The report of a run and the page of an evaluation in a real browser: charts are drawn and buttons work."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest
import runs

from alignment.evaluation.intervals import wilson
from alignment.runs.evaluations.summary import ResultTable, Sample, Summary
from alignment.telemetry.report.evaluation_page import EvaluationPage, write_evaluation
from alignment.telemetry.report.page import write_report
from alignment.telemetry.writers import open_writers

sys.path.insert(0, str(runs.ROOT / "tests"))
from browser import needs_chromium, open_page  # noqa: E402

pytestmark = [pytest.mark.e2e, needs_chromium]
EVIL = '</script><script>document.title = "broken"</script><img src=x onerror="document.title = 1">'


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    """The report of a run of sixty updates, with a spike and text that would break the page if it were not escaped."""
    folder = tmp_path_factory.mktemp("run")
    writers = open_writers(["none"], output_dir=folder)
    for step in range(1, 61):
        reward, loss = 0.5 + 0.4 * math.tanh(step / 20), 500.0 if step == 7 else math.sin(step)
        writers.write(step, {"train/reward": reward, "train/kl_divergence": step / 20, "policy/loss": loss})
    writers.write_samples(60, [{"prompt": f"pack lamp {EVIL}", "response": "lamp done", "score": 1.0}])
    writers.close()
    return write_report(folder, title="A run", summary={"eval/reward": (0.5, 0.9)})


def test_the_report_draws_its_charts_and_shows_far_values_on_a_click(report, tmp_path):
    with open_page(report.as_uri(), width=1000, height=800) as page:
        assert page.wait_for("document.querySelectorAll('.plot canvas').length") == page.evaluate(
            "document.querySelectorAll('.plot').length"
        )
        painted = "[...document.querySelectorAll('canvas')].every(c => c.getContext('2d')"
        assert page.evaluate(f"{painted}.getImageData(0, 0, c.width, c.height).data.some(value => value))")
        page.wait_for("document.querySelector('button.all:not([hidden])')")
        before = page.evaluate("document.querySelector('button.all:not([hidden])').ariaPressed")
        page.click("button.all:not([hidden])")
        assert before == "false"
        assert page.wait_for("document.querySelector('button.all:not([hidden])').ariaPressed === 'true'")
        assert page.evaluate("document.title") == "A run"
        assert EVIL in page.evaluate("document.body.textContent")
        assert page.screenshot(tmp_path / "report.png").stat().st_size > 10_000
        assert page.errors == []


def test_the_page_of_an_evaluation_shows_its_tables_and_opens_its_arguments(tmp_path):
    summary = Summary(
        title="Win rate of a against b",
        metrics={"win_rate": wilson(0.75, 8), "win_rate_at_equal_length": None},
        tables=[ResultTable("Prompts", ["policy", "better on"], [["a", 5], ["b", 1]])],
        samples=[Sample(EVIL, [("a, reward 1.000", "lamp done"), ("b, reward 0.100", "")])],
    )
    content = EvaluationPage(
        title=summary.title,
        tables=[summary.metric_table(0.95), *summary.tables],
        notes=["A tie is half a win."],
        samples=summary.samples,
        counts={"too_long_for_the_reward_model": 2, "ties": 0},
        ledgers={"prompts": {"datasets": {"p": {"selected": 8, "used": 6}}, "rows": []}},
        arguments={"task": {"value": "win_rate", "origin": "file"}},
    )
    path = tmp_path / "evaluation.html"
    write_evaluation(path, content)
    with open_page(path.as_uri(), width=1000, height=800) as page:
        cells = json.loads(page.evaluate("JSON.stringify([...document.querySelectorAll('td')].map(c => c.innerText))"))
        for text in ("0.75", "0.4093 to 0.9285", "-", EVIL, "too long for the reward model", "2"):
            assert text in cells, (text, cells)
        assert "ties" not in cells, "a count of nothing is not shown"
        assert page.evaluate("document.querySelector('details').open") is False
        page.click("details summary")
        assert page.wait_for("document.querySelector('details').open")
        assert page.evaluate("document.title") == summary.title
        assert page.errors == []
