"""Sharding stages in products of layouts against one process: norms, weights, gradients and moments of each tensor."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import pytest

from alignment.architecture.layout import Layout
from tests.distributed.ranks_together import run_together

pytestmark = pytest.mark.distributed
KINDS = (
    {},
    {"tied": True, "recompute": "full", "dtype": "float64"},
    {"kind": "score", "recompute": "full_attn"},
    {"dtype": "float64"},
)
TOLERANCES = {
    "float32": {"norms": 1e-5, "weights": 1e-5, "gradients": 1e-5, "moments": 5e-5},
    "float64": {"norms": 1e-12, "weights": 1e-12, "gradients": 1e-12, "moments": 1e-12},
}
"""Of the largest value of each tensor. Moments are squares of gradients that five updates have drawn apart."""


FROZEN = [{}, {"tied": True, "dtype": "float64"}]
TWO = Layout(sharding=2)


def run(layout: Layout, **calls: tuple) -> dict[str, tuple]:
    """Return the results by rank of each call (function and arguments but for the layout), in one start."""
    written = [(f"ranks_sharding:{function}", layout, *arguments) for function, *arguments in calls.values()]
    return dict(zip(calls, run_together(layout, written), strict=True))


@functools.cache
def alone() -> dict[str, tuple]:
    """Return what one process makes of each of ``KINDS``, of frozen models, and of gradients in half precision."""
    kinds = [{"stage": 0, **kind} for kind in KINDS]
    return run(Layout(), kinds=("train_cases", kinds), frozen=("score_frozen", FROZEN), half=("train_half", [0]))


@functools.cache
def two() -> dict[str, tuple]:
    """Return what two sharding ranks do besides training; the last of it sets Paddle's own sharding up."""
    return run(
        TWO,
        frozen=("score_frozen", FROZEN),
        broken=("break_one_rank",),
        half=("train_half", [1, 2, 3]),
        paddle=("compare_with_paddle", [2, 3]),
    )


def assemble(pieces: list) -> dict[str, np.ndarray]:
    """Return whole tensors from (part, array) of all ranks; what several ranks hold must agree to the last bit."""
    whole: dict[str, np.ndarray] = {}
    for part, value in pieces:
        assert value.shape == part.extent, part
        target = whole.setdefault(part.name, np.full(part.shape, np.nan, value.dtype))
        old = target[part.slices]
        np.testing.assert_array_equal(old[~np.isnan(old)], value[~np.isnan(old)], err_msg=str(part))
        target[part.slices] = value
    for name, value in whole.items():
        assert not np.isnan(value).any(), f"nobody holds all of {name}"
    return whole


def compare(layout: Layout, *cases: tuple[int, int]) -> list[list[dict]]:
    """Compare every rank's results in ``layout`` with one process for ``cases`` of (stage, index of the kind); return
    them by case.
    """
    written = [{"stage": stage, **KINDS[kind]} for stage, kind in cases]
    ranks = run(layout, cases=("train_cases", written))["cases"]
    for index, (stage, kind) in enumerate(cases):
        want, found = alone()["kinds"][0][kind], [rank[index] for rank in ranks]
        tolerances = TOLERANCES[KINDS[kind].get("dtype", "float32")]
        assert all(one["norms"] == found[0]["norms"] for one in found), "norms differ between ranks"
        np.testing.assert_allclose(found[0]["norms"], want["norms"], rtol=tolerances["norms"])
        for what in ("weights", "gradients", "moments"):
            got, expected = (assemble([p for one in many for p in one[what]]) for many in (found, [want]))
            assert got.keys() == expected.keys()
            for name, value in expected.items():
                gap = np.abs(got[name] - value).max() / np.abs(value).max()
                assert gap < tolerances[what], f"stage {stage}, {KINDS[kind]}, {what} of {name}: {gap:.2g}"
    return [[rank[index] for rank in ranks] for index in range(len(cases))]


def test_two_sharding_ranks():
    cases = [(1, 0), (2, 2), (3, 0), (3, 1), (3, 2)]
    for (stage, _), ranks in zip(cases, compare(TWO, *cases), strict=True):
        for rank in ranks:
            check_memory(stage, rank["live"])
            # A layer is an eighth of the model.
            whole = rank["live"][0]["model"]
            assert rank["most waiting"] == whole if stage == 1 else rank["most waiting"] < 0.2 * whole


def check_memory(stage: int, live: list[dict[str, int]]) -> None:
    """Check what was left in memory after the micro-batches of each update, and before its step."""
    for one in live:
        assert one["gradients"] == 0
        # Of 56 000 parameters; uneven tensors pad the buckets by a few rows.
        assert one["held gradients"] <= one["model"] * (1 if stage == 1 else 0.51)
        assert one["kept weights"] <= one["model"] * (0.51 if stage == 3 else 1)
        if stage == 3:
            assert one["weights"] <= one["model"] * 0.1


def test_data_and_sharding_ranks():
    compare(Layout(data=2, sharding=2), (0, 1), (1, 1), (2, 1), (3, 1))


def test_tensor_and_sharding_ranks():
    compare(Layout(tensor=2, sharding=2), (1, 1), (2, 1), (3, 1))


@pytest.mark.rare
def test_sequence_parallel_and_sharding_ranks():
    compare(Layout(tensor=2, sharding=2, sequence_parallel=True), (2, 1), (2, 2))


def test_key_heads_on_several_tensor_ranks():
    compare(Layout(tensor=4), (0, 1))


def test_stages_and_sharding_ranks():
    compare(Layout(pipeline=2, sharding=2), (1, 1), (1, 2), (2, 1), (2, 2), (3, 1), (3, 2))


@pytest.mark.rare
def test_interleaved_stages_and_sharding_ranks():
    compare(Layout(pipeline=2, sharding=2, virtual_stages=2), (2, 1), (3, 1))


@pytest.mark.slow
def test_every_axis_at_once():
    compare(Layout(tensor=2, pipeline=2, sharding=2), (1, 3), (2, 1), (3, 3))


@pytest.mark.rare
def test_data_stages_and_sharding_ranks():
    compare(Layout(data=2, pipeline=2, sharding=2, virtual_stages=2), (2, 1), (3, 1))


@pytest.mark.parametrize("case", [0, 1])
def test_a_frozen_model_is_whole_nowhere_and_gives_the_same_numbers(case):
    want, ranks = alone()["frozen"][0][case], two()["frozen"]
    for found in (rank[case] for rank in ranks):
        for name, outputs in (("outputs", want["outputs"]), ("again", want["outputs"])):
            for got, expected in zip(found[name], outputs, strict=True):
                np.testing.assert_array_equal(got, expected)
        for name, value in want["weights"].items():
            np.testing.assert_array_equal(found["weights"][name], value)
        # The largest unit is a layer, an eighth of the model.
        assert found["most"] < 0.2 * want["most"]
        assert found["after"] == 0


def test_a_number_that_is_not_finite_on_one_rank_stops_all_with_the_same_message():
    first, second = two()["broken"]
    assert first == second
    assert "policy: loss is nan at update 1, which was not applied" in first["metric"]
    assert "policy: gradient norm is nan at update 1" in first["gradient"]
    assert first["weights before"] == first["weights after"]


def test_half_precision_gradients_add_up_in_float32_and_weights_are_published():
    [[want]] = alone()["half"]
    # In bfloat16 the small gradients behind a large one would all be lost.
    np.testing.assert_allclose(want["gradient"], 1.0 + 8 * 2.0**-9, rtol=0)
    for ranks in zip(*two()["half"], strict=True):
        for name in ("gradient", "master"):
            np.testing.assert_array_equal(np.concatenate([rank[name] for rank in ranks]), want[name])
        for rank in ranks:
            np.testing.assert_array_equal(rank["weight"], want["weight"])
        assert want["state"] == ranks[0]["state"]


def test_stages_two_and_three_equal_those_of_paddle():
    for rank in itertools.chain(*two()["paddle"]):
        for name, value in rank["theirs"].items():
            gap = np.abs(rank["ours"][name] - value).max() / np.abs(value).max()
            assert gap < 1e-6, f"{name}: {gap:.2g}"
            assert np.abs(value - rank["start"][name]).max() > 0.01, "the weights have hardly moved"
