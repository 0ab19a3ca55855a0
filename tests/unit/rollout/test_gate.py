"""The gap between engine and trainer is measured by token, and each action does what it says."""

from __future__ import annotations

import numpy as np
import pytest

from alignment.errors import NotFiniteError, NumericalError
from alignment.records import Experience, Rollout
from alignment.rollout import gate as gate_module
from alignment.rollout.experience import learning_fields
from alignment.rollout.gate import LogprobGate, measure_gap

TRAINER = np.log(np.array([[0.5, 0.25, 0.5], [0.5, 0.8, 0.0625]], np.float32))


def _rollout(engine, **fields):
    """Two rows of 3 and 2 tokens; what the engine says of column 2 of row 1 is padding."""
    return Rollout(
        prompts=(np.array([1]), np.array([1])),
        responses=(np.array([11, 12, 13]), np.array([21, 22])),
        finish_reasons=("stop", "stop"),
        group_ids=np.array([0, 1]),
        rollout_logprobs=np.asarray(engine, np.float32),
        old_logprobs=TRAINER,
        policy_version=4,
        **fields,
    )


def _shifted(*by_token):
    """The trainer's log-probs moved by these numbers, and damage in the padding."""
    engine = TRAINER.copy()
    engine[[0, 0, 0, 1, 1], [0, 1, 2, 0, 1]] += by_token
    engine[1, 2] = np.nan
    return engine


FAR = _shifted(0.0, 0.1, -0.4, 0.0, 0.2)
NEAR = _shifted(0.0, 0.01, -0.04, 0.0, 0.02)


@pytest.fixture
def lines(monkeypatch):
    """What is logged as a warning."""
    told = []
    monkeypatch.setattr(gate_module.log, "warn", told.append)
    return told


def _gate(action, **options):
    return LogprobGate(**{"limit": 0.05, "action": action, "weight_cap": 1.25, **options})


def _unchanged(before, after):
    return after.old_logprobs is before.old_logprobs and after.importance_weights is None


def test_the_gap_by_hand():
    gap = measure_gap(_rollout(FAR))
    assert gap.mean == pytest.approx(0.7 / 5)
    assert gap.p99 == gap.max == pytest.approx(0.4)
    assert gap.worst.startswith("row 0, response position 2, token id 13 ")
    metrics = gap.metrics()
    assert {name: m.reduction for name, m in metrics.items()} == {
        "rollout/logprob_gap_mean": "sum",
        "rollout/logprob_gap_p99": "sum",
        "rollout/logprob_gap_max": "max",
    }
    assert [m.value for m in metrics.values()] == [gap.mean, gap.p99, gap.max]


def test_rows_without_a_reward_do_not_count():
    gap = measure_gap(_rollout(FAR, valid=np.array([False, True])))
    assert gap.mean == pytest.approx(0.1) and gap.max == pytest.approx(0.2)
    assert gap.worst.startswith("row 1, response position 1, token id 22 ")


@pytest.mark.parametrize(("num_far", "p99"), [(2, 0.0), (3, 1.0)])
def test_one_per_cent_of_the_tokens_may_exceed_the_p99(num_far, p99):
    engine = np.zeros((2, 100), np.float32)
    engine[1, :num_far] = 1.0
    rollout = Rollout(
        prompts=(np.array([1]),) * 2,
        responses=(np.arange(100),) * 2,
        finish_reasons=("length",) * 2,
        group_ids=np.array([0, 1]),
        rollout_logprobs=engine,
        old_logprobs=np.zeros((2, 100), np.float32),
    )
    assert measure_gap(rollout).p99 == p99


@pytest.mark.parametrize("action", ["warn", "recompute", "stop"])
def test_within_the_limit_only_recompute_takes_the_engines_log_probs(action, lines):
    rollout = _rollout(NEAR)
    checked, metrics = _gate(action).check(rollout)
    if action == "recompute":
        assert checked.old_logprobs is rollout.rollout_logprobs
    else:
        assert _unchanged(rollout, checked)
    assert metrics["rollout/logprob_gap_max"].value == pytest.approx(0.04, rel=1e-5), "the gap to the trainer's"
    assert "rollout/importance_weight_mean" not in metrics
    assert lines == []


def test_warn_says_the_numbers_and_changes_nothing(lines):
    rollout = _rollout(FAR)
    checked, _ = _gate("warn").check(rollout)
    assert _unchanged(rollout, checked)
    assert len(lines) == 1
    for words in ("at update 4", "p99 0.4", "mean 0.14", "worst 0.4 nats at row 0, response position 2, token id 13"):
        assert words in lines[0]
    assert "engine -1.09315, trainer -0.693147" in lines[0] and "logprob_gap_limit=0.05" in lines[0]


def test_the_first_and_every_fiftieth_are_told(lines):
    gate = _gate("warn")
    for _ in range(120):
        gate.check(_rollout(FAR))
        gate.check(_rollout(NEAR))
    assert len(lines) == 3
    assert [line.partition("(number ")[2].split()[0] for line in lines] == ["1", "50", "100"]


def test_only_the_main_process_tells(lines, monkeypatch):
    monkeypatch.setattr(gate_module.log, "is_main", lambda: False)
    _gate("warn").check(_rollout(FAR))
    assert lines == []


def test_recompute_keeps_the_trainers_log_probs_above_the_limit(lines):
    rollout = _rollout(FAR)
    checked, _ = _gate("recompute").check(rollout)
    assert _unchanged(rollout, checked)
    assert "are the trainer's instead" in lines[0]


def test_a_run_that_falls_back_on_the_trainers_log_probs_says_that(lines):
    _gate("warn", falls_back=True).check(_rollout(FAR))
    assert "are the trainer's instead" in lines[0] and "unchanged" not in lines[0]


@pytest.mark.parametrize("engine", [NEAR, FAR])
def test_correct_weighs_every_rollout(engine, lines):
    rollout = _rollout(engine)
    checked, metrics = _gate("correct").check(rollout)
    expected = np.minimum(np.exp(TRAINER - engine), 1.25)
    expected[1, 2] = 0.0
    np.testing.assert_allclose(checked.importance_weights, expected, rtol=1e-6)
    assert checked.old_logprobs is rollout.old_logprobs
    on_tokens = expected[rollout.response_mask > 0]
    assert metrics["rollout/importance_weight_mean"].value == pytest.approx(on_tokens.mean())
    assert metrics["rollout/importance_weight_max"] == (pytest.approx(on_tokens.max()), "max")
    assert len(lines) == (engine is FAR), "the limit only decides whether it is told"


def test_the_weights_are_among_the_fields_the_losses_read():
    checked, _ = _gate("correct").check(_rollout(NEAR))
    zeros = np.zeros_like(TRAINER)
    fields = learning_fields(Experience(rollout=checked, advantages=zeros, returns=None, rewards=zeros))
    assert fields["importance_weights"] is checked.importance_weights
    plain, _ = _gate("warn").check(_rollout(NEAR))
    assert "importance_weights" not in learning_fields(
        Experience(rollout=plain, advantages=zeros, returns=None, rewards=zeros)
    )


def test_stop_names_the_token_and_says_what_to_do(lines):
    with pytest.raises(NumericalError) as error:
        _gate("stop").check(_rollout(FAR))
    message = str(error.value)
    for words in (
        "update 4",
        "p99 0.4",
        "row 0, response position 2, token id 13",
        "engine -1.09315",
        "use_fusemt=false",
    ):
        assert words in message
    assert "\n" not in message and lines == []


@pytest.mark.parametrize("action", ["warn", "correct", "recompute", "stop"])
@pytest.mark.parametrize("damage", [np.nan, np.inf])
def test_damaged_log_probs_stop_the_run_whatever_the_action(action, damage, lines):
    with pytest.raises(NotFiniteError, match=r"by the engine .*row 1, response position 0, token id 21") as caught:
        _gate(action, limit=1e9).check(_rollout(_shifted(0.0, 9.0, 0.0, damage, 0.0)))
    assert caught.value.model == "policy"


@pytest.mark.parametrize(("num_far", "passes"), [(9, True), (11, False)])
def test_it_is_the_99th_of_a_hundred_tokens_that_trips_the_gate(num_far, passes):
    trainer = np.full((4, 250), -1.0, np.float32)
    engine = trainer.copy()
    engine[2, :num_far] -= 1.0
    rollout = Rollout(
        prompts=(np.array([1]),) * 4,
        responses=(np.full(250, 3),) * 4,
        finish_reasons=("length",) * 4,
        group_ids=np.arange(4),
        old_logprobs=trainer,
        rollout_logprobs=engine,
    )
    if passes:
        checked, metrics = _gate("stop").check(rollout)
        assert checked is rollout and metrics["rollout/logprob_gap_max"].value == pytest.approx(1.0)
    else:
        with pytest.raises(NumericalError, match="p99 1"):
            _gate("stop").check(rollout)


def test_two_infinite_log_probs_are_no_small_gap():
    rollout = _rollout(np.full((2, 3), -np.inf)).with_fields(old_logprobs=np.full((2, 3), -np.inf, np.float32))
    with pytest.raises(NotFiniteError, match="log-probs by the engine and the trainer are NaN or infinite"):
        _gate("warn").check(rollout)
