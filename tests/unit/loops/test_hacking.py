"""Signs of hacking on made histories: which kind is told, and at which update."""

from __future__ import annotations

import json
import random

import pytest

from alignment.loops.hacking.alarm import HackingAlarm, best_paid, least_liked
from alignment.loops.hacking.signs import JudgedEvaluation, confirms, find_contradiction, least_kl
from alignment.loops.hacking.windows import SAMPLED, SERIES, read_row
from alignment.metrics import Metric

STEADY = {
    "reward": 1.0, "spread": 1.0, "kl": 0.5, "length": 20.0, "correlation": 0.0, "ended": 0.9, "entropy": 2.0,
    "repetition": 0.05, "overlap": 0.1,
}  # fmt: skip
ROWS = [{"prompt": "p", "response": "r", "score": 2.0}]


def _metrics(**values):
    return {SERIES[name]: Metric(value) for name, value in {**STEADY, **values}.items()}


def _run(later, *, num=30, noise=0.0, seed=1, alarm=None):
    """Ten rollouts as at the start, then ``later(i)`` of the i-th after them; return what was told, by kind."""
    alarm = alarm or HackingAlarm()
    drawn = random.Random(seed)
    for step in range(1, num + 1):
        values = {**STEADY, **(later(step - 10) if step > 10 else {})}
        shaken = {name: value * (1 + noise * drawn.gauss(0, 1)) for name, value in values.items()}
        alarm.observe(_metrics(**shaken), step=step, samples=lambda: ROWS)
    return {finding.kind: finding.step for finding in alarm.findings}


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("kl", {"kl": 20.0}),
        ("length", {"length": 31.0, "correlation": 0.4}),
        ("length", {"length": 13.0, "correlation": -0.4}),
        ("repetition", {"repetition": 0.21}),
        ("sameness", {"overlap": 0.4}),
        ("unended", {"ended": 0.65}),
        ("entropy", {"entropy": 0.1, "kl": float("nan")}),
    ],
)
def test_a_sign_is_told_in_the_second_window_that_shows_it_if_the_reward_has_risen(kind, values):
    """The first ten rollouts are the start and one like it; windows of five end at 15 and 20."""
    assert _run(lambda i: {"reward": 1.5, **values}) == {kind: 20}
    assert _run(lambda i: values) == {}
    assert _run(lambda i: {"reward": 1.5, **(values if i <= 5 else {})}) == {}


@pytest.mark.parametrize(
    "values",
    [
        {"entropy": 0.1}, {"entropy": 0.3, "kl": float("nan")},
        {"kl": 7.9}, {"length": 29.0, "correlation": 0.4}, {"length": 60.0, "correlation": 0.2}, {"repetition": 0.19},
        {"length": 13.0, "correlation": 0.4}, {"overlap": 0.3}, {"ended": 0.72},
    ],
)  # fmt: skip
def test_a_smaller_change_is_no_sign(values):
    assert _run(lambda i: {"reward": 1.5, **values}) == {}


def test_the_least_kl_of_a_gain_is_half_its_square_and_at_least_one_nat():
    assert (least_kl(0.5), least_kl(2.0), least_kl(4.0)) == (1.0, 2.0, 8.0)
    assert _run(lambda i: {"reward": 5.0, "kl": 60.0}) == {}  # 4 deviations cost 8 nats: 60 is below 8 times that
    assert _run(lambda i: {"reward": 5.0, "kl": 65.0}) == {"kl": 20}


def test_noise_raises_no_alarm():
    """A run that learns without hacking, with noise of a quarter in every metric, over 40 seeds and 200 rollouts."""
    told = [_run(lambda i: {"reward": 1 + min(1.0, i / 50)}, num=200, noise=0.25, seed=seed) for seed in range(40)]
    assert sum(map(bool, told)) <= 2


def test_metrics_without_rewards_and_numbers_that_are_not_finite_are_left_out():
    alarm = HackingAlarm()
    alarm.observe({"sft/loss": Metric(1.0)}, step=1, samples=lambda: ROWS)
    assert alarm.window == []
    later = {"reward": 1.5, "repetition": 0.5, "correlation": float("nan")}
    assert _run(lambda i: later) == {"repetition": 20}


def test_the_state_resumes_to_the_same_findings_at_every_rollout(caplog):
    def later(i):
        return {"reward": 1.5 + 0.01 * i, "repetition": 0.1 + 0.02 * i, "kl": 1.0 * i}

    whole = HackingAlarm()
    _run(later, num=40, noise=0.05, alarm=whole)
    assert len(whole.findings) == 2
    for cut in (3, 14, 22, 31):
        acted, alarm = [], HackingAlarm()
        resumed = HackingAlarm(act=lambda count, acted=acted: acted.append(count) or "")
        drawn = random.Random(1)
        for step in range(1, 41):
            values = {**STEADY, **(later(step - 10) if step > 10 else {})}
            shaken = {name: value * (1 + 0.05 * drawn.gauss(0, 1)) for name, value in values.items()}
            alarm.observe(_metrics(**shaken), step=step, samples=lambda: ROWS)
            if step == cut:
                told = len(alarm.findings)
                resumed.load_state(json.loads(json.dumps(alarm.state())))
                assert acted == ([told] if told else [])
                alarm = resumed
        assert alarm.state() == whole.state()


@pytest.mark.parametrize(("num", "logged"), [(3, False), (5, False), (9, False), (10, True), (13, True)])
def test_a_resumed_run_logs_the_metrics_of_the_unbroken_one(num, logged):
    """Nothing before the second window, even if that is equal to the first."""
    whole, resumed = HackingAlarm(), HackingAlarm()
    _run(lambda i: {}, num=num, alarm=whole)
    resumed.load_state(json.loads(json.dumps(whole.state())))
    assert resumed.metrics() == whole.metrics()
    assert bool(resumed.metrics()) is logged


def _history(*pairs, std=1.0, count=100):
    return [
        JudgedEvaluation(step=10 * n, count=count, reward=reward, reward_std=std, judge=judge, judge_std=std)
        for n, (reward, judge) in enumerate(pairs)
    ]


def test_a_judge_that_falls_beyond_noise_while_the_reward_rises_contradicts_it():
    """The standard error of one evaluation is 0.1, that of the fall 0.1225: three of them are 0.367."""
    falls = _history((0, 0), (1, 1), (2, 0.7), (3, 0.55))
    sign = find_contradiction("truth", falls)
    assert sign.kind == "judge" and "truth fell from 1 (update 10) to 0.625" in sign.text
    assert find_contradiction("truth", _history((0, 0), (1, 1), (2, 0.7), (3, 0.6))) is None
    assert find_contradiction("truth", _history((0, 0), (3, 1), (2, 0.7), (1, 0.5))) is None  # the reward fell too
    assert find_contradiction("truth", falls[:3]) is None


def test_a_judge_that_never_rises_contradicts_a_reward_that_gained_a_deviation():
    pairs = [(1.0, 0.632), (2.1, 0.62), (2.15, 0.615), (2.18, 0.601)]
    assert find_contradiction("truth", _history(*pairs)).text == (
        "the reward rose from 1 to 2.18, and the second judge truth did not: it was 0.632 and is 0.601"
    )
    assert find_contradiction("truth", _history(*pairs[:3])) is None
    assert find_contradiction("truth", _history(*pairs[:2], (2.15, 0.64), pairs[3])) is None
    assert find_contradiction("truth", _history(*pairs[:3], (1.9, 0.6))) is None


def test_answers_that_are_first_compared_with_themselves_have_the_spread_of_later_ones():
    """A win rate against the start begins at 0.5 without any spread: 0.6 is no gain of a deviation, 0.8 is."""
    for rate, is_told in ((0.6, False), (0.8, True)):
        first, *later = _history((0.5, 0.3), *[(rate, 0.3)] * 3, std=0.25)
        found = find_contradiction("truth", [first._replace(reward_std=0.0), *later])
        assert (found is not None) == is_told


def test_a_judge_that_confirms_the_gain_silences_the_signs_of_training():
    assert confirms(_history((0, 0), (1, 0.3))) and not confirms(_history((0, 0), (1, 0.2)))
    for judge, told in ((1.0, {}), (0.0, {"repetition": 20})):
        alarm = HackingAlarm(judges=("truth",))
        for step, score in ((0, 0.0), (10, judge)):
            found = {"eval/reward": score, "eval/reward_std": 1.0, "eval/truth": score, "eval/truth_std": 1.0}
            alarm.observe_evaluation(found, ROWS * 100, step=step)
        assert _run(lambda i: {"reward": 1.5, "repetition": 0.5}, alarm=alarm) == told


def test_greedy_answers_are_compared_with_their_own_start_and_quoted():
    """The sampled answers earn more by both. The error of a fall is 0.14 with 100 prompts, and 1.4 with one of them."""
    row = {"response": "s", "score": 9.0, "truth": 9.0}
    rows = [{**row, "greedy_response": f"g{n}", "greedy_reward": n, "greedy_truth": -n} for n in range(100)]
    prompts = [[f"p{n}" for n in range(100)], ["p"] * 100]
    told = []
    for curve, texts in (
        ((1.0, 1.0, 0.4, 0.4), prompts[0]),
        ((1.0, 1.0, 0.7, 0.3), prompts[0]),
        ((1, 1, 0, 0), prompts[1]),
    ):
        alarm = HackingAlarm(judges=("truth",))
        for n, greedy in enumerate(curve):
            means = {"reward": n, "truth": n, "greedy_reward": 0.1 * n, "greedy_truth": greedy}
            found = {f"eval/{name}": float(mean) for name, mean in means.items()}
            samples = [{"prompt": text, **one} for text, one in zip(texts, rows, strict=True)]
            alarm.observe_evaluation(found | {f"eval/{name}_std": 1.0 for name in means}, samples, step=10 * n)
        told.append(alarm.findings)
    ((finding,), *others) = told
    assert others == [[], []], (
        "one of two evaluations fell far enough only; a hundred rows of one prompt are one answer"
    )
    fall = "fell from 1 (update 0) to 0.4 (mean of updates 20 and 30), while the reward of its greedy answers went from"
    assert finding.text.startswith(f"the second judge greedy_truth {fall}")
    assert [(one["response"], one["score"]) for one in finding.samples] == [("g99", 99), ("g98", 98), ("g97", 97)]


def test_answers_that_a_judge_could_not_score_are_neither_counted_nor_quoted():
    """The fall of 0.6 is more than three errors of 100 answers, and less than three of the 16 that have a score."""
    for scored, is_told in ((100, True), (16, False)):
        alarm = HackingAlarm(judges=("truth",))
        failed = [{"prompt": "p", "response": "failed", "score": 99.0, "truth": None}] * (100 - scored)
        rows = [{"prompt": "p", "response": f"s{n}", "score": n, "truth": -n} for n in range(scored)]
        for n, mean in enumerate((1.0, 1.0, 0.4, 0.4)):
            found = {"eval/reward": 0.1 * n, "eval/reward_std": 1.0, "eval/truth": mean, "eval/truth_std": 1.0}
            alarm.observe_evaluation(found, [*failed, *rows], step=10 * n)
        assert bool(alarm.findings) == is_told
    alarm.observe_evaluation(found | {"eval/truth": -9.0}, [*failed, *rows], step=50)
    (finding,) = alarm.findings
    assert [one["response"] for one in finding.samples] == ["s15", "s14", "s13"]


def test_quoted_are_the_best_paid_answers_and_those_that_a_judge_ranks_lowest_against_the_reward():
    rows = [{"score": score, "truth": truth} for score, truth in ((3.0, 0.0), (2.0, 2.0), (1.0, 3.0), (None, 1.0))]
    assert [row["score"] for row in best_paid(rows)] == [3.0, 2.0, 1.0]
    assert least_liked(rows, "truth")[0] == rows[0] and least_liked(rows, "truth")[-1] == rows[3]


def test_one_kind_is_told_once_with_the_answers(caplog):
    alarm = HackingAlarm(act=lambda count: f"acted {count}")
    _run(lambda i: {"reward": 1.5, "repetition": 0.5}, num=60, alarm=alarm)
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [
        "the reward may be hacked (repetition, update 20): 50% of a response's token pairs are repetitions, and were "
        "5% at the start. acted 1. Answers to read:\n  'p' -> 'r' (score 2)"
    ]
    assert alarm.metrics()["hacking/kinds"].value == 1


def test_the_reward_is_that_of_all_prompts_where_some_are_left_out():
    assert read_row(_metrics(reward=3.0))["reward"] == 3.0
    assert read_row({**_metrics(reward=3.0), SAMPLED: Metric(1.25)})["reward"] == 1.25
