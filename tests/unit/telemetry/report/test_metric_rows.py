"""Cards and tables: first, last and best values, and which run is ahead."""

from __future__ import annotations

import pytest

from alignment.telemetry.report.metric_rows import Cell, evaluation_summary, metric_rows, summary_cards


def test_cards_show_the_change_and_what_a_metric_means():
    cards = summary_cards({"a": (0.5, 0.25), "b": ("x", "y"), "c": 7, "d": (1, 1), "eval/perplexity": 3.0})
    assert [(card.before, card.value, card.change) for card in cards] == [
        ("0.5", "0.25", "-0.25"), ("x", "y", ""), ("", "7", ""), ("1", "1", "+0"), ("", "3", ""),
    ]  # fmt: skip
    assert [bool(card.text) for card in cards] == [False, False, False, False, True]


def test_the_summary_of_a_run_is_its_evaluations_but_those_that_never_changed():
    series = {
        "eval/loss": [(0, 3.0), (5, None), (9, 2.0)],
        "eval/accuracy": [(0, 0.5), (9, 0.5)],
        "eval/rewards_mean": [(0, 1.0), (9, 2.0)],
        "eval/reward": [(9, 4.0)],
        "eval/perplexity": [(9, None)],
        "sft/loss": [(0, 3.0), (9, 2.0)],
    }
    assert evaluation_summary(series) == {"eval/reward": 4.0, "eval/loss": (3.0, 2.0)}


def test_first_last_and_best_by_the_better_direction():
    series = {
        "sft/loss": [(1, 3.0), (2, 1.0), (3, 2.0)],
        "eval/accuracy": [(0, 0.25), (3, 0.75)],
        "kl/k1": [(1, 3.0), (2, 1.0)],
        "train/kl_coeff": [(1, 0.1), (2, 0.1)],
    }
    rows = metric_rows({"": series})
    assert [(row.name, row.cells) for row in rows.key] == [
        ("sft/loss", [Cell("3", "2", "1", 2)]), ("eval/accuracy", [Cell("0.25", "0.75", "0.75", 3)]),
    ]  # fmt: skip
    assert [(row.name, row.cells) for row in rows.others] == [("kl/k1", [Cell("3", "1")])]
    assert [(row.name, row.cells) for row in rows.constants] == [("train/kl_coeff", [Cell("0.1", "0.1")])]
    assert rows.others[0].unit == "nats per token" and rows.others[0].text.startswith("Mean log-ratio")


def test_values_that_are_not_finite_are_named_and_never_best():
    (row,) = metric_rows({"": {"sft/loss": [(1, None), (2, 5.0), (3, None)]}}).key
    assert row.cells == [Cell("NaN or infinite", "NaN or infinite", "5", 2, "2 NaN or infinite, first at step 1")]
    (row,) = metric_rows({"": {"sft/loss": [(4, None)]}}).key
    assert row.cells == [Cell("NaN or infinite", "NaN or infinite", "", None, "1 NaN or infinite, first at step 4")]


def test_a_single_value_is_no_constant():
    rows = metric_rows({"": {"eval/loss": [(9, 2.0)], "eval/accuracy": [(0, 0.5), (9, 0.5)], "kl/k1": [(9, 0.5)]}})
    assert [[row.name for row in part] for part in rows] == [["eval/loss"], [], ["kl/k1", "eval/accuracy"]]


def test_the_run_that_is_ahead_at_its_end_is_marked():
    def ahead(name, *lasts):
        runs = {str(i): {name: [(1, 0.0), (2, last)]} if last != "none" else {} for i, last in enumerate(lasts)}
        rows = metric_rows(runs)
        (row,) = rows.key + rows.others
        return [cell.is_best for cell in row.cells]

    assert ahead("train/reward", 1.0, 3.0, 2.0) == [False, True, False]
    assert ahead("sft/loss", 1.0, 3.0, 1.0) == [True, False, True]
    assert ahead("sft/loss", None, 3.0, 4.0) == [False, True, False]
    assert ahead("sft/loss", 3.0, "none") == [False, False]
    assert ahead("train/reward", 3.0, 3.0) == [False, False]
    assert ahead("kl/k1", 1.0, 3.0) == [False, False]


@pytest.mark.parametrize(
    ("name", "sources", "bold"),
    [
        ("train/reward", ("rm-a", "rm-b"), False), ("eval/reward", ("rm-a", "rm-b"), False),
        ("critic/loss", ("rm-a", "rm-b"), False), ("train/reward", ("rm-a", "rm-a"), True),
        ("eval/accuracy", ("rm-a", "rm-b"), True), ("train/reward", (), True),
    ],
)  # fmt: skip
def test_rewards_of_different_sources_have_no_best(name, sources, bold):
    runs = {"a": {name: [(1, 0.0), (2, 1.0)]}, "b": {name: [(1, 0.0), (2, 3.0)]}}
    (row,) = metric_rows(runs, sources).key
    assert (row.is_comparable, any(cell.is_best for cell in row.cells)) == (bold, bold)
    alone = {"a": runs["a"], "b": {}}
    assert metric_rows(alone, sources).key[0].is_comparable


@pytest.mark.parametrize("part", ["mean", "p99", "max"])
def test_the_gap_of_engine_and_trainer_has_no_better_direction(part):
    name = f"rollout/logprob_gap_{part}"
    rows = metric_rows({"a": {name: [(1, 1e-6), (2, 2e-6)]}, "b": {name: [(1, 3e-6), (2, 1e-6)]}})
    assert rows.key == []
    assert [(row.name, [cell.best for cell in row.cells]) for row in rows.others] == [(name, ["", ""])]
