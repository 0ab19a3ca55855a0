"""The script of the page, run by node on stand-ins for page and canvas: what it hands to uPlot, what it says."""

from __future__ import annotations

import json
import shutil
import subprocess
from importlib import resources
from pathlib import Path

import pytest

from alignment.telemetry.report.charts import build_groups

STEPS = range(1, 51)
ASSETS = resources.files("alignment.telemetry.report").joinpath("assets")


@pytest.fixture(scope="module")
def drawn():
    """What ``charts_in_node.js`` prints for a run with an evaluation, a NaN, many points and a KL."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs node: the script of the page is checked only where it is installed")
    series = {
        "train/reward": [(1, 0.5), (2, None), (3, 20_000.4)],
        "eval/reward": [(0, 0.25), (3, 1.0)],
        "train/kl_divergence": [(1, 0.2), (3, 0.1)],
        "policy/loss": [(step, float(step % 3)) for step in STEPS],
        "critic/loss": [(step, 900.0 if step == 7 else step % 5) for step in STEPS],
    }
    groups = build_groups({"": series})
    charts = {chart.id: chart.data for group in groups for chart in group.charts}
    command = [node, str(Path(__file__).parent / "charts_in_node.js")]
    command += [str(ASSETS.joinpath(name)) for name in ("uplot/uPlot.iife.min.js", "charts.js")]
    done = subprocess.run(command, input=json.dumps(charts), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    return {chart["id"]: chart for chart in result.pop("charts")} | result


def test_training_and_evaluation_have_the_steps_of_both_and_a_gap_where_a_value_is_not_finite(drawn):
    chart = drawn["chart-0"]
    assert chart["data"] == [
        [0, 1, 2, 3, 50],
        ["none", 0.5, None, 20000.4, "none"],
        [0.25, "none", "none", 1, "none"],
    ]
    assert chart["lonely"] == [1, 3] and chart["dots"] == [None, True, True]
    assert chart["marks"] == [2 - 5]  # one triangle, whose foot starts five pixels before step 2
    assert drawn["chart-2"]["marks"] == []
    assert chart["labels"] == ["update", "score"]


def test_keys_read_the_values_and_leave_the_last_ones_behind(drawn):
    assert drawn["chart-0"]["moves"] == [
        ["update 0", "0.5 (at 1)", "0.25"],
        ["update 1", "0.5", "0.25 (at 0)"],
        ["update 50", "20,000 (at 3)", "1 (at 3)"],
        ["update 50", "20,000 (at 3)", "1 (at 3)"],
        ["", "last 0", "last 1"],
    ]


def test_a_trend_is_a_line_of_its_own_that_is_not_read_out(drawn):
    chart = drawn["chart-2"]
    assert len(chart["data"]) == 3 and chart["data"][0] == [0, *STEPS] and chart["dots"] == [None, False, False]
    assert chart["moves"][0] == ["update 0", "1 (at 1)"] and chart["moves"][2] == ["update 50", "2"]
    assert chart["noLog"] is True


def test_a_path_is_read_by_its_kl_and_says_the_update(drawn):
    (path,) = [chart for name, chart in drawn.items() if name == "path-0"]
    assert path["data"] == [[0.1, 0.2], [20000.4, 0.5], [3, 1]]
    assert path["moves"][0] == ["KL 0.1", "20,000 (update 3)"] and path["moves"][1] == ["KL 0.2", "0.5 (update 1)"]
    assert path["labels"] == ["train/kl_divergence (nats per response)", "score"]


def test_time_on_a_path_is_opacity_and_its_colour_is_that_of_the_run(drawn):
    assert drawn["path-0"]["discs"] == [[0.2, "(--c0)", 0.2, 3], [0.1, "(--c0)", 1, 5]]


def test_the_button_changes_the_axis_and_back(drawn):
    assert (drawn["pressed"], drawn["released"], drawn["destroyed"]) == ({"distr": 3}, {}, True)
    assert drawn["chart-0"]["noLog"] is False
    assert drawn["handlers"] == ["beforeprint", "afterprint"]


def test_a_spike_is_left_out_until_it_is_asked_for_or_alone_in_view(drawn):
    """The others lie between 0 and 4; a range is the limits of what is shown and a margin."""
    (chart,) = [chart for chart in drawn.values() if isinstance(chart, dict) and chart.get("noAll") is False]
    low, high = 0 - 0.04 * 5, 5 + 0.04 * 5
    assert chart["views"]["y"] == [pytest.approx([low, high]), pytest.approx([0.96, 2.04]), pytest.approx([896, 1004])]
    assert chart["viewsOfAll"] == [{"x": None, "y": None}, "false"]
    assert drawn["chart-2"]["noAll"] is True and drawn["chart-2"]["views"] == {"x": None, "y": None}
