"""Accuracy on pairs by subset and section."""

from __future__ import annotations

import numpy as np
import pytest

from alignment.errors import DataError
from alignment.evaluation.intervals import wilson
from alignment.evaluation.pairs import (
    REWARDBENCH,
    by_subset,
    check_sections,
    outcome,
    overall_score,
    record_lines,
    section_scores,
    subset_accuracy,
)

SECTIONS = {"A": {"a": 3, "b": 1}, "B": {"c": 1, "d": 5}}
OUTCOMES = {"a": np.array([1.0, 0.0]), "b": np.array([1.0]), "c": np.array([0.5, 1.0, 0.0, 1.0])}


def test_outcomes():
    assert [outcome(2, 1), outcome(1, 2), outcome(1, 1)] == [1.0, 0.0, 0.5]
    assert [outcome(2, 1, 1), outcome(2.5, 1, 1), outcome(1, 2.5, 1)] == [0.5, 1.0, 0.0]


def test_sections_by_the_weights_of_the_benchmark_and_by_rows():
    found = section_scores(OUTCOMES, SECTIONS)
    assert found["A"].estimate.value == pytest.approx((3 * 0.5 + 1 * 1) / 4)
    assert found["B"].estimate.value == pytest.approx(0.625)
    assert found["B"].missing == ("d",)
    effective = 1 / (0.75**2 / 2 + 0.25**2 / 1)
    assert found["A"].estimate == wilson(0.625, effective)._replace(count=3)
    by_rows = section_scores(OUTCOMES, SECTIONS, weighting="rows")
    assert by_rows["A"].estimate == pytest.approx(wilson(2 / 3, 3)), "equal weights: every pair counts"
    assert overall_score(found) == pytest.approx(0.625)


def test_a_section_without_pairs_is_left_out_of_the_mean_and_zero_in_the_record():
    found = section_scores({"c": np.array([1.0])}, SECTIONS)
    assert found["A"] == (None, ("a", "b"))
    assert overall_score(found) == 1.0
    assert record_lines("m", found) == "m\nA\t0\nB\t100.0\n"


def test_the_record_rounds_as_the_script_does():
    assert record_lines("x/y", section_scores({"a": np.array([1, 1, 0.0])}, {"A": {"a": 1}})) == "x/y\nA\t66.67\n"


def test_rewardbench_has_its_23_subsets():
    weights = {name: weight for names in REWARDBENCH.values() for name, weight in names.items()}
    assert [*REWARDBENCH] == ["Chat", "Chat Hard", "Safety", "Reasoning"]
    assert len(weights) == 23
    assert sum(weights.values()) == 2985 + (984 - 447)
    assert weights["math-prm"] == sum(weight for name, weight in weights.items() if name.startswith("hep-"))


def test_subsets_are_kept_apart():
    found = by_subset(["x", "y", "x"], [1.0, 0.5, 0.0])
    assert {name: values.tolist() for name, values in found.items()} == {"x": [1.0, 0.0], "y": [0.5]}
    assert subset_accuracy(found)["x"].value == 0.5


def test_unknown_subsets_and_empty_sections_are_refused():
    with pytest.raises(DataError, match=r"subset 'e' is in no section.*allowed: a, b, c, d"):
        check_sections(["a", "c", "e"], SECTIONS, allow_missing=True)
    with pytest.raises(DataError, match=r"no pair is of section 'B' \(its subsets: c, d; found: a\)"):
        check_sections(["a"], SECTIONS, allow_missing=False)
    check_sections(["a"], SECTIONS, allow_missing=True)
