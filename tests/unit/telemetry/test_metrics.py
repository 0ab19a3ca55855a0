"""Metrics of micro-batches combine to the metric of the whole batch."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignment.metrics import Metric, average_metrics, merge_metrics, reduce_metrics


def test_sums_add_because_the_denominator_was_global():
    parts = [{"policy/clip_fraction": Metric(3 / 8)}, {"policy/clip_fraction": Metric(np.float32(1 / 8))}]
    assert reduce_metrics(parts) == {"policy/clip_fraction": 0.5}


def test_extremes_and_absent_names():
    parts = [{"a": Metric(1.0, "max"), "b": Metric(4.0, "min")}, {"a": Metric(3.0, "max")}, {"b": Metric(2.0, "min")}]
    assert reduce_metrics(parts) == {"a": 3.0, "b": 2.0}


@pytest.mark.parametrize("reduction", ["sum", "max", "min"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_nan_survives_wherever_it_stands(reduction, place):
    values = [1.0, 2.0, 3.0]
    values[place] = math.nan
    assert math.isnan(reduce_metrics([{"loss": Metric(value, reduction)} for value in values])["loss"])


def test_one_name_with_two_reductions_is_a_mistake():
    with pytest.raises(AssertionError, match="'a' is reduced by sum and max"):
        reduce_metrics([{"a": Metric(1.0)}, {"a": Metric(1.0, "max")}])


def test_unknown_reduction_is_a_mistake():
    with pytest.raises(AssertionError, match="'mean'"):
        reduce_metrics([{"a": Metric(1.0, "mean")}])


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=12), st.integers(1, 11))
def test_result_does_not_depend_on_the_split(values, cut):
    parts = [{"s": Metric(v), "x": Metric(v, "max"), "n": Metric(v, "min")} for v in values]
    whole = reduce_metrics(parts)
    halves = [reduce_metrics(half) for half in (parts[:cut], parts[cut:]) if half]
    again = reduce_metrics(
        [{"s": Metric(h["s"]), "x": Metric(h["x"], "max"), "n": Metric(h["n"], "min")} for h in halves]
    )
    assert again["s"] == pytest.approx(whole["s"], abs=1e-6)
    assert (again["x"], again["n"]) == (max(values), min(values))


def test_merged_metrics_keep_their_reductions():
    merged = merge_metrics([{"a": Metric(1.0), "b": Metric(2.0, "max")}, {"a": Metric(0.5), "b": Metric(1.0, "max")}])
    assert merged == {"a": Metric(1.5), "b": Metric(2.0, "max")}


def test_a_metric_absent_from_an_iteration_does_not_count_as_zero():
    averaged = average_metrics([{"a": Metric(4.0), "m": Metric(1.0, "min")}, {"a": Metric(2.0)}, {"b": Metric(1.0)}])
    assert averaged == {"a": Metric(3.0), "m": Metric(1.0, "min"), "b": Metric(1.0)}
