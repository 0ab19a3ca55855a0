"""The engine's log-probs stand for the trainer's where both agree on a sample of the responses."""

from __future__ import annotations

import numpy as np
import pytest

from alignment.records import Rollout
from alignment.rollout.engine_trust import EngineTrust
from alignment.rollout.gate import LogprobGate

N, R = 8, 3
ENGINE = np.random.default_rng(0).normal(-2, 1, (N, R)).astype(np.float32)
ROLLOUT = Rollout(
    prompts=(np.array([1, 5]),) * N,
    responses=(np.array([3, 4, 2]),) * N,
    finish_reasons=("stop",) * N,
    group_ids=np.arange(N),
    rollout_logprobs=ENGINE,
)


def measure(rows, distance, *, at=slice(None)):
    """Return (old, entropy, compared, the rows that the trainer was asked for)."""
    trainer, asked = ENGINE.copy(), []
    trainer[at] += np.float32(distance)

    def policy(rows=None):
        asked.append(None if rows is None else rows.tolist())
        rows = np.arange(N) if rows is None else rows
        return trainer[rows], -trainer[rows]

    return *EngineTrust(rows=rows, limit=0.05).measure(ROLLOUT, policy), asked


def test_where_a_sample_agrees_the_trainer_computes_no_other_rows():
    old, entropy, compared, asked = measure(3, 0.01)
    assert asked == [[0, 4, 7]] and np.flatnonzero(compared).tolist() == [0, 4, 7]
    np.testing.assert_array_equal(old[compared], ENGINE[compared] + np.float32(0.01))
    np.testing.assert_array_equal(old[~compared], ENGINE[~compared])
    assert (entropy[~compared] == 0).all() and (entropy[compared] != 0).all()


@pytest.mark.parametrize("distance", [0.1, np.nan])
def test_where_it_does_not_the_trainer_computes_all(distance):
    old, entropy, compared, asked = measure(3, distance)
    assert asked == [[0, 4, 7], None] and compared.all()
    np.testing.assert_array_equal(old, ENGINE + np.float32(distance))


def test_a_sample_of_all_rows_is_one_pass():
    assert measure(N, 0.1)[3] == [None]


def test_gate_and_entropy_read_the_compared_rows():
    old, entropy, compared, _ = measure(3, 0.01)
    judged = ROLLOUT.with_fields(old_logprobs=old, entropy=entropy, compared=compared)
    _, metrics = LogprobGate(limit=0.05, action="warn", weight_cap=1.0).check(judged)
    assert metrics["rollout/logprob_gap_mean"].value == pytest.approx(0.01, rel=1e-3)
    mask = judged.compared_mask
    assert mask.sum() == 3 * R
    assert (entropy * mask).sum() / mask.sum() == pytest.approx(entropy[compared].mean())
    nobody = judged.with_fields(valid=~compared)
    assert nobody.compared_mask.sum() == 3 * R, "rewards that failed change no log-prob"
