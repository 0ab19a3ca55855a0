"""Old log-probs come from the engine while some rows show that it agrees with the trainer."""

from __future__ import annotations

import numpy as np
import pytest

from alignment.parallel.dense import DenseRunner
from alignment.records import Rollout
from alignment.rollout.forward import measure_logprobs
from alignment.rollout.gate import LogprobGate
from alignment.rollout.logprob_check import LogprobCheck
from alignment.telemetry import log
from tests.tiny_models import tiny_causal

OPTIONS = {"rows_per_batch": 2, "temperature": 0.7}
ROWS = 6


@pytest.fixture(scope="module")
def policy():
    return DenseRunner(tiny_causal(std=0.5))


@pytest.fixture(scope="module")
def rollout(policy):
    """Six rows of 1 to 6 tokens, whose engine is the trainer and 1e-3."""
    responses = tuple(np.arange(3, 4 + i) for i in range(ROWS))
    rows = Rollout(
        prompts=tuple(np.array([1, 5 + i]) for i in range(ROWS)),
        responses=responses,
        finish_reasons=("stop",) * ROWS,
        group_ids=np.arange(ROWS),
        policy_version=2,
    )
    return rows.with_fields(rollout_logprobs=measure_logprobs(policy, rows, **OPTIONS)[0] + np.float32(1e-3))


def _measure(policy, rollout, **check):
    numbers = {"num_rows": 2, "limit": 0.01, **check}
    return LogprobCheck(**numbers).measure(policy, rollout, with_entropy=True, **OPTIONS)


def test_checked_rows_are_the_trainers_and_the_others_the_engines(policy, rollout):
    trainers, entropy = measure_logprobs(policy, rollout, with_entropy=True, **OPTIONS)
    found = _measure(policy, rollout)
    assert np.flatnonzero(found.checked).tolist() == [2, 5]
    on = rollout.response_tokens
    np.testing.assert_allclose(found.logprobs[2:6:3], trainers[2:6:3], atol=1e-6)
    np.testing.assert_allclose(found.entropy[2:6:3], entropy[2:6:3], atol=1e-5)
    others = [0, 1, 3, 4]
    np.testing.assert_array_equal(found.logprobs[others], np.where(on, rollout.rollout_logprobs, 0)[others])
    assert not found.entropy[others].any() and not found.logprobs[~on].any()


def test_the_next_rollout_checks_other_rows(policy, rollout):
    later = _measure(policy, rollout.with_fields(policy_version=3))
    assert np.flatnonzero(later.checked).tolist() == [0, 3]


@pytest.mark.parametrize("change", ["too far", "not finite", "too few rows"])
def test_otherwise_all_are_the_trainers(policy, rollout, change):
    check, given = {}, rollout
    if change == "too far":
        check["limit"] = 1e-4
    elif change == "not finite":
        engine = rollout.rollout_logprobs.copy()
        engine[1, 1] = np.nan  # a row that is not checked
        given = rollout.with_fields(rollout_logprobs=engine)
    else:
        check["num_rows"] = ROWS
    found = _measure(policy, given, **check)
    assert found.checked is None
    np.testing.assert_array_equal(found.logprobs, measure_logprobs(policy, rollout, **OPTIONS)[0])


def test_the_gate_measures_checked_rows_and_learns_from_the_engines(policy, rollout):
    found = _measure(policy, rollout)
    judged = rollout.with_fields(
        old_logprobs=found.logprobs, checked_rows=found.checked, valid=~np.asarray(found.checked)
    )
    gate = LogprobGate(limit=0.01, action="stop", weight_cap=1.0)
    after, metrics = gate.check(judged)
    assert metrics["rollout/logprob_gap_mean"].value == pytest.approx(1e-3, rel=1e-2), "over checked rows, valid or not"
    np.testing.assert_array_equal(after.old_logprobs, rollout.rollout_logprobs)


def test_a_run_that_checks_in_vain_says_so(policy, rollout, monkeypatch):
    told = []
    monkeypatch.setattr(log, "warn", told.append)
    check = LogprobCheck(num_rows=2, limit=1e-4)
    for _ in range(120):
        check.measure(policy, rollout, with_entropy=False, **OPTIONS)
    LogprobCheck(num_rows=2, limit=0.01).measure(policy, rollout, with_entropy=False, **OPTIONS)
    assert [line.partition("(number ")[2].split()[0] for line in told] == ["1", "50", "100"]
    for words in (
        "p99 0.001 nats in 2 responses checked at update 2",
        "logprob_gap_limit=0.0001",
        "those of all 6",
    ):
        assert words in told[0]
