"""A dead model ends a run; a gradient of 0 that has a reason does not."""

import pytest

from alignment.errors import NumericalError
from alignment.loops.liveness import Liveness, teaches
from alignment.metrics import Metric


def _metrics(**values):
    return {name.replace("__", "/"): Metric(value) for name, value in values.items()}


def _ppo(norm, *, std=1.0, mean=0.0, critic=0.5):
    return _metrics(
        policy__gradient_norm=norm,
        policy__learning_rate=1000.0,
        policy__loss=0.0,
        policy__advantage_mean=mean,
        policy__advantage_std=std,
        critic__gradient_norm=critic,
        critic__loss=2.0,
    )


def _observe(*iterations):
    liveness = Liveness()
    for number, metrics in enumerate(iterations, 1):
        liveness.observe(metrics, update=number)
    return liveness


def test_the_third_silent_iteration_ends_the_run():
    with pytest.raises(NumericalError) as caught:
        _observe(_ppo(1.0), *[_ppo(0.0)] * 3)
    message = str(caught.value)
    assert message.startswith("policy: the gradient was exactly 0 in the last 3 iterations up to update 4")
    assert "Lower the learning rate (1000 now)" in message


def test_the_critic_is_watched_too():
    with pytest.raises(NumericalError, match="^critic: the gradient was exactly 0"):
        _observe(*[_ppo(1.0, critic=0.0)] * 3)


@pytest.mark.parametrize(
    "iterations",
    [
        [_ppo(1e-30)] * 9,
        [_ppo(0.0), _ppo(0.0), _ppo(1.0)] * 3,
        [_ppo(0.0, std=0.0)] * 9,
        [_ppo(0.0, std=1e-8, mean=-1e-8)] * 9,
        [_metrics(policy__gradient_norm=0.0, sft__loss=0.0)] * 9,
        [_metrics(policy__gradient_norm=0.0, sft__loss=1e-9)] * 9,
        [_metrics(reward__gradient_norm=0.0, preference__loss=0.0)] * 9,
        [{}] * 9,
    ],
    ids=["small", "not in a row", "no advantage", "rounding", "known data", "rounding", "separated pairs", "no update"],
)
def test_a_gradient_of_0_with_a_reason_is_no_death(iterations):
    assert _observe(*iterations).silent.get("policy", 0) == 0


def test_iterations_without_a_lesson_neither_count_nor_clear():
    liveness = _observe(_ppo(0.0), _ppo(0.0, std=0.0), _ppo(0.0))
    assert liveness.silent["policy"] == 2


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        (_metrics(sft__loss=0.5), True),
        (_metrics(cost__loss=0.5), True),
        (_ppo(0.0, std=0.0, mean=0.1), True),
        (_ppo(0.0, std=float("nan")), False),
    ],
)
def test_what_teaches(metrics, expected):
    assert teaches("policy", metrics) is expected


def test_a_run_that_ends_before_is_warned_of():
    assert _observe(_ppo(1.0)).describe() is None
    warning = _observe(_ppo(0.0), _ppo(0.0)).describe()
    assert "the gradient was exactly 0 for policy in the last 2 iteration(s)" in warning


@pytest.mark.parametrize(
    ("name", "metrics", "expected"),
    [
        ("reward", _metrics(preference__loss=0.0, preference__accuracy=1.0, policy__loss=3.0), False),
        ("reward", _metrics(preference__loss=0.5, preference__accuracy=1.0), True),
        ("critic", _metrics(critic__loss=0.0, ptx__loss=2.0), False),
        ("policy", _metrics(policy__loss=3.0, sft__loss=0.25), True),
        ("policy", _metrics(policy__advantage_mean=0.5, policy__advantage_std=0.0, sft__loss=0.0), True),
    ],
)
def test_only_a_models_own_loss_or_the_advantages_are_something_to_learn(name, metrics, expected):
    assert teaches(name, metrics) is expected
