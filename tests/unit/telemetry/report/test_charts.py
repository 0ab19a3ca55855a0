"""What is drawn together, in which order, and what is not drawn at all."""

from __future__ import annotations

import pytest

from alignment.telemetry.report.charts import build_groups, split_constants
from alignment.telemetry.report.explanations import HACKING, OTHER

RISING, CONSTANT = [(1, 1.0), (2, 2.0), (3, 4.0)], [(1, 5.0), (2, 5.0), (3, 5.0)]


def titles(groups):
    return {group.title: [chart.title for chart in group.charts] for group in groups}


def test_charts_are_grouped_by_meaning_in_the_order_of_the_explanations():
    names = ("time/update_seconds", "zz/mine", "critic/loss", "train/reward", "aa/mine", "policy/entropy")
    groups = build_groups({"": dict.fromkeys(names, RISING)})
    assert list(titles(groups).items()) == [
        ("Reward", ["Reward"]), ("Policy update", ["Entropy"]), ("Critic", ["Critic loss"]),
        ("Speed", ["Seconds by stage"]), (OTHER, ["aa/mine", "zz/mine"]),
    ]  # fmt: skip


def test_training_and_evaluation_are_drawn_together_also_where_one_never_changes():
    series = {"eval/reward": [(0, 3.0)], "train/reward": RISING, "eval/loss": RISING, "sft/loss": CONSTANT}
    reward, loss = (group.charts[0] for group in build_groups({"": series}))
    assert [(line.name, line.colour, line.last) for line in reward.lines] == [
        ("train/reward", 0, "4"), ("eval/reward", 1, "3"),
    ]  # fmt: skip
    assert [line.name for line in loss.lines] == ["sft/loss", "eval/loss"]
    assert reward.data["ends"] == [0, 3]


def test_a_chart_of_constants_is_not_drawn():
    series = {
        "train/kl_coeff": CONSTANT, "kl/k1": CONSTANT, "kl/k2": RISING, "policy/loss": [(1, None)],
        "ptx/loss": [(7, 1.0)],
    }  # fmt: skip
    charts, constants = split_constants({"": series})
    assert constants == ["train/kl_coeff", "ptx/loss", "policy/loss"]
    assert list(charts.values()) == [["kl/k1", "kl/k2"]]
    assert build_groups({"": {"train/kl_coeff": CONSTANT}}) == []
    assert build_groups({"": {}}) == []


def test_between_runs_each_metric_has_a_chart_and_each_run_a_colour():
    series = {name: RISING for name in ("kl/k1", "kl/k2", "reward/std", "eval/reward_std", "eval/perplexity")}
    groups = build_groups({"a": series, "b": {**series, "kl/k1": CONSTANT}})
    assert titles(groups) == {
        "Reward": ["Spread of the reward"],
        "Distance from the reference": ["KL per token: kl/k1", "KL per token: kl/k2"],
        "Loss and accuracy": ["Perplexity"],
    }
    assert [(line.label, line.colour, line.dash) for line in groups[0].charts[0].lines] == [
        ("a: reward/std", 0, 0), ("a: eval/reward_std", 0, 1), ("b: reward/std", 1, 0), ("b: eval/reward_std", 1, 1),
    ]  # fmt: skip


def test_a_metric_that_is_constant_in_each_run_is_not_drawn_and_one_that_a_run_lacks_is_left_out():
    runs = {"a": {"train/kl_coeff": CONSTANT, "kl/k1": RISING}, "b": {"train/kl_coeff": [(1, 6.0)]}}
    (group,) = build_groups(runs)
    assert [(line.label, line.colour) for line in group.charts[0].lines] == [("a: kl/k1", 0)]
    assert split_constants(runs)[1] == ["train/kl_coeff"]


def test_what_the_script_draws():
    points = [(1, 0.5), (2, None), (3, 12345.678912345)]
    (group,) = build_groups({"": {"policy/loss": points}})
    (chart,) = group.charts
    assert chart.data == {
        "kind": "curves", "unit": "loss", "ends": [1, 3], "log": True,
        "lines": [{"colour": 0, "dash": 0, "x": [1, 2, 3], "y": [0.5, None, 12345.68], "trend": None}],
    }  # fmt: skip
    assert chart.lines[0].warning == "1 NaN or infinite, first at step 2"


@pytest.mark.parametrize(("values", "log"), [((1, 10), True), ((1, 9), False), ((0, 10), False), ((-1, 10), False)])
def test_a_logarithmic_axis_is_offered_for_positive_values_that_span_a_factor_of_ten(values, log):
    (group,) = build_groups({"": {"policy/loss": list(enumerate(values))}})
    assert group.charts[0].data["log"] is log


def test_many_points_are_thinned_out_and_have_a_trend():
    (group,) = build_groups({"": {"policy/loss": [(step, step + 5.0 * (step % 2)) for step in range(12_000)]}})
    (line,) = group.charts[0].data["lines"]
    assert len(line["x"]) < 1_300 and line["x"][-1] == 11_999
    steps, values = line["trend"]
    assert len(steps) == len(values) == 400
    assert values == pytest.approx([step + 2.5 for step in steps], rel=1e-4)


def test_reward_is_paired_with_the_kl_of_its_step():
    series = {"train/kl_divergence": [(1, 0.1), (2, 0.2), (3, 0.3)], "eval/reward": [(0, 0.5), (2, 0.6), (9, 0.7)]}
    group = next(group for group in build_groups({"": series}) if group.title == HACKING)
    (chart,) = group.charts
    assert chart.title == "eval/reward bought with KL"
    assert chart.data == {
        "kind": "path", "unit": "score", "x_label": "train/kl_divergence (nats per response)",
        "lines": [{"colour": 0, "step": (0, 2, 9), "x": [0.0, 0.2, 0.3], "y": [0.5, 0.6, 0.7]}],
    }  # fmt: skip
    assert HACKING not in titles(build_groups({"": {"eval/reward": [(0, 0.5), (2, 0.6)]}}))


def test_long_paths_keep_their_ends():
    series = {"kl/k1": [(s, s / 10) for s in range(1, 1_002)], "train/reward": [(s, float(s)) for s in range(1, 1_002)]}
    group = next(group for group in build_groups({"a": series, "b": {}}) if group.title == HACKING)
    (line,) = group.charts[0].data["lines"]
    assert len(line["step"]) <= 401 and (line["step"][0], line["step"][-1]) == (1, 1_001)


def test_far_values_are_said_and_left_out_of_the_range_at_first():
    calm = [(step, float(step % 5)) for step in range(200)]
    (group,) = build_groups({"": {"policy/loss": [*calm, (200, 1e6), (201, -900.0)], "eval/loss": [(0, 9.0)]}})
    chart = next(chart for chart in group.charts if chart.data["lines"][0]["x"][-1] == 201)
    low, high = chart.data["range"]
    assert -2 < low < 0 and 4 < high < 10
    assert chart.outside == "2 values lie outside, the farthest: 1,000,000 at update 200"
    (group,) = build_groups({"": {"policy/loss": [*calm, (200, 1e6)]}})
    assert group.charts[0].outside == "one value lies outside: 1,000,000 at update 200"
    assert all(0 < value < 4 for value in group.charts[0].data["lines"][0]["trend"][1])
    (group,) = build_groups({"": {"policy/loss": calm}})
    assert "range" not in group.charts[0].data and group.charts[0].outside == ""


def test_a_line_of_a_few_points_is_shown_whole_beside_a_long_one():
    series = {"train/reward": [(s, s % 5 / 5) for s in range(200)], "eval/reward": [(0, 100.0), (199, 120.0)]}
    chart = build_groups({"": series})[0].charts[0]
    assert len(chart.lines) == 2 and chart.outside == ""


def test_a_spike_of_the_kl_does_not_flatten_the_path():
    series = {"train/kl_divergence": [(s, 1e4 if s == 9 else s / 50) for s in range(50)],
              "train/reward": [(s, s / 10) for s in range(50)]}  # fmt: skip
    group = next(group for group in build_groups({"": series}) if group.title == HACKING)
    assert group.charts[0].data["x_range"][1] < 2 and "range" not in group.charts[0].data


def frontiers(runs):
    """Return the charts of reward against KL."""
    return [chart for group in build_groups(runs) if group.title == HACKING for chart in group.charts]


def test_a_run_with_a_single_point_is_drawn_beside_others_in_its_colour():
    one = {"train/kl_divergence": [(1, 0.1)], "train/reward": [(1, 0.5)]}
    two = {"train/kl_divergence": [(1, 0.2), (2, 0.3)], "train/reward": [(1, 0.6), (2, 0.7)]}
    (chart,) = frontiers({"a": one, "b": two, "c": {}})
    assert chart.data["lines"] == [
        {"colour": 0, "step": (1,), "x": [0.1], "y": [0.5]},
        {"colour": 1, "step": (1, 2), "x": [0.2, 0.3], "y": [0.6, 0.7]},
    ]
    assert [line.label for line in chart.lines] == ["a: train/reward", "b: train/reward"]
    assert len(frontiers({"a": one, "b": one})[0].lines) == 2
    assert frontiers({"": one}) == [] == frontiers({"a": one, "b": {}})


def test_runs_are_compared_by_the_kl_that_most_of_them_have():
    both = {"train/kl_divergence": RISING, "kl/k1": RISING, "train/reward": RISING}
    (chart,) = frontiers({"a": both, "b": {"kl/k1": RISING, "train/reward": RISING}})
    assert chart.data["x_label"] == "kl/k1 (nats per token)" and len(chart.lines) == 2
    assert frontiers({"a": both, "b": both})[0].data["x_label"] == "train/kl_divergence (nats per response)"


def test_lowest_and_highest_reward_share_a_chart_with_two_lines_a_run():
    series = {"reward/min": RISING, "reward/max": RISING}
    (chart,) = build_groups({"a": series, "b": series})[0].charts
    assert chart.title == "Lowest and highest reward"
    assert [(line.label, line.colour, line.dash) for line in chart.lines] == [
        ("a: reward/min", 0, 0), ("a: reward/max", 0, 1), ("b: reward/min", 1, 0), ("b: reward/max", 1, 1),
    ]  # fmt: skip
