"""Rewards never become a silent zero: failures are retried, then stop the run or mask the group."""

import pickle

import numpy as np
import pytest

from alignment.errors import NotFiniteError, RewardError
from alignment.parallel.comms.stop_signals import Interrupted
from alignment.records import Rollout
from alignment.rollout.rewards.scorers import FailurePolicy, ModelScorer, Scores, TextScorer
from alignment.rollout.rewards.text_batch import TextBatch


class _Words:
    """Decodes token 3 as ``w3``."""

    def decode(self, ids, *, skip_special_tokens=True):
        return " ".join(f"w{i}" for i in ids)


def _rollout(responses=((3,), (4,), (5, 6), (7,)), groups=(0, 0, 1, 1)):
    return Rollout(
        prompts=tuple(np.array([1]) for _ in responses),
        responses=tuple(np.array(r) for r in responses),
        finish_reasons=("stop",) * len(responses),
        group_ids=np.array(groups),
        inputs=tuple(f"question {g}" for g in groups),
        labels=("label",) * len(responses),
    )


def _scorer(call, **policy):
    return TextScorer(
        call, _Words(), name="reward function f", policy=FailurePolicy(**{"backoff_seconds": 0.0, **policy})
    )


def test_a_function_sees_text_and_gives_one_score_a_row():
    seen = []
    scores = _scorer(lambda batch: seen.append(batch) or [1, 2, 3, 4]).score(_rollout())
    assert seen[0] == TextBatch(["question 0"] * 2 + ["question 1"] * 2, ["w3", "w4", "w5 w6", "w7"], ["label"] * 4)
    np.testing.assert_array_equal(scores.values, np.array([1, 2, 3, 4], np.float32))
    assert scores.valid is None


def test_a_passing_failure_is_retried():
    answers = iter([TimeoutError("slow"), [0.5] * 4])

    def call(batch):
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert _scorer(call, retries=1).score(_rollout()).values.tolist() == [0.5] * 4


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ([1.0, 2.0], r"shape \(2,\) for 4 responses"),
        ([1.0, float("nan"), 0.0, 0.0], "nan for response 1"),
        ([1.0, 0.0, -1e39, 0.0], "-1e\\+39 for response 2; rewards must be finite, 3.4e\\+38 at most"),
        ([10**400, 0, 0, 0], "not a list of numbers"),
        (["good"] * 4, r"\['good', 'good', 'good', 'good'\], which is not a list of numbers"),
        (None, r"shape \(\) for 4 responses"),
        (ValueError("broken"), "ValueError: broken"),
        (SystemExit(0), "SystemExit: 0"),
        (FileNotFoundError(2, "no such file", "x.json"), "x.json"),
    ],
)
def test_what_would_fail_again_stops_the_run_after_one_call(answer, reason):
    calls = []
    with pytest.raises(RewardError, match=f"^reward function f failed: .*{reason}.* not tried again"):
        _scorer(_answering(answer, calls), retries=3, backoff_seconds=100.0).score(_rollout())
    assert len(calls) == 1


class _LibraryError(Exception):
    """What a library raises whose service is down."""


@pytest.mark.parametrize("answer", [ConnectionResetError("gone"), TimeoutError("slow"), _LibraryError("busy")])
def test_what_may_pass_is_tried_as_often_as_asked(answer):
    calls = []
    with pytest.raises(RewardError, match=f"failed 3 times, last: .*{answer}"):
        _scorer(_answering(answer, calls), retries=2).score(_rollout())
    assert len(calls) == 3


def test_the_pauses_double(monkeypatch):
    pauses = []
    monkeypatch.setattr("alignment.rollout.retries.time.sleep", pauses.append)
    with pytest.raises(RewardError):
        _scorer(_answering(TimeoutError("slow"), []), retries=8, backoff_seconds=1.0).score(_rollout())
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]


def _answering(answer, calls):
    def call(batch):
        calls.append(1)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    return call


def test_a_failure_names_the_line_of_the_users_file(tmp_path):
    """Of a failure inside a library the user's own last line is named, in a file beside the function's too."""
    source = "import json\ndef parse(text):\n    return json.loads(text)\ndef score(batch):\n    return parse('{')\n"
    path = tmp_path / "rewards.py"
    path.write_text(source)
    names = {}
    exec(compile(source, str(path), "exec"), names)
    with pytest.raises(RewardError) as caught:
        _scorer(names["score"], retries=0).score(_rollout())
    assert f"({path}, line 3, in parse: return json.loads(text))" in str(caught.value)


def test_text_that_a_function_executes_is_located_at_the_line_that_executes_it(tmp_path):
    source = "def score(batch):\n    exec('exit()')\n"
    path = tmp_path / "rewards.py"
    path.write_text(source)
    names = {}
    exec(compile(source, str(path), "exec"), names)
    with pytest.raises(RewardError, match=r"SystemExit: None \(.*line 2, in score: exec\('exit\(\)'\)"):
        _scorer(names["score"], retries=0).score(_rollout())


def test_exit_is_masked_like_any_other_failure():
    def call(batch):
        if "question 1" in batch.inputs:
            raise SystemExit
        return [2.0] * len(batch.responses)

    scores = _scorer(call, on_failure="mask_group").score(_rollout())
    assert scores.valid.tolist() == [True, True, False, False]


@pytest.mark.parametrize("signal", [Interrupted(2), KeyboardInterrupt()], ids=["Interrupted", "KeyboardInterrupt"])
@pytest.mark.parametrize("on_failure", ["stop", "mask_group"])
@pytest.mark.parametrize("fails_whole", [True, False])
def test_a_signal_that_ends_the_run_is_no_failure_of_the_function(signal, on_failure, fails_whole):
    """It may come while all rows are scored, or while mask_group looks for the groups that fail."""

    def call(batch):
        raise signal if fails_whole or len(batch.responses) == 2 else ValueError("no")

    expected = RewardError if on_failure == "stop" and not fails_whole else type(signal)
    with pytest.raises(expected):
        _scorer(call, on_failure=on_failure).score(_rollout())


def test_mask_group_masks_only_the_groups_that_fail():
    def call(batch):
        if "question 1" in batch.inputs:
            raise ValueError("no")
        return [2.0] * len(batch.responses)

    scores = _scorer(call, retries=0, on_failure="mask_group").score(_rollout())
    assert scores.valid.tolist() == [True, True, False, False]
    assert scores.values.tolist() == [2.0, 2.0, 0.0, 0.0]
    masked = _rollout().with_fields(valid=scores.valid)
    np.testing.assert_array_equal(masked.response_mask.sum(-1), [1, 1, 0, 0])


def test_what_a_second_judge_cannot_score_is_counted_in_one_line(caplog):
    def call(batch):
        if len(set(batch.inputs)) > 1 or "question 0" not in batch.inputs:
            raise ValueError("no")
        return [2.0] * len(batch.responses)

    scores = _scorer(call, retries=0, on_failure="mask_group", is_judge=True).score(_rollout(groups=(0, 1, 2, 2)))
    assert scores.valid.tolist() == [True, False, False, False]
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith("reward function f could not score 3 of 4 answers, which its mean leaves out, as on_reward")
    assert "the first is to 'question 1': ValueError: no (" in said


def test_mask_group_stops_when_every_group_fails():
    def call(batch):
        raise ValueError("no")

    with pytest.raises(RewardError, match="every group"):
        _scorer(call, retries=0, on_failure="mask_group").score(_rollout())


def test_a_reward_model_that_gives_nan_is_named_with_its_row():
    class Runner:
        def forward(self, batches, read):
            return [np.array([0.0, np.nan], np.float32)] * 2

    scorer = ModelScorer(Runner(), lambda rollout: list(rollout.responses), rows_per_batch=2)
    with pytest.raises(NotFiniteError, match=r"row 1 is nan \(2 of 4 rows"):
        scorer.score(_rollout())


def test_a_function_may_add_notes_which_masking_keeps_by_row():
    def call(batch):
        if len(batch.responses) == 4 or "w3" in batch.responses:
            raise ValueError("no")
        return {"score": [1.0] * len(batch.responses), "timeout": [0.0, 1.0]}

    scores = _scorer(call, on_failure="mask_group", retries=0).score(_rollout())
    np.testing.assert_array_equal(scores.valid, [False, False, True, True])
    np.testing.assert_array_equal(scores.notes["timeout"], [0, 0, 0, 1])
    plain = _scorer(lambda batch: {"score": [1, 2, 3, 4], "late": [1, 0, 0, 0]}).score(_rollout())
    np.testing.assert_array_equal(plain.values, [1, 2, 3, 4])
    np.testing.assert_array_equal(plain.notes["late"], [1, 0, 0, 0])


@pytest.mark.parametrize(
    ("answer", "says"),
    [({"scores": [1] * 4}, "expected 'score'"), ({"score": [1] * 4, "late": [1]}, r"shape \(1,\) for 4 responses")],
)
def test_notes_that_cannot_be_read_are_errors(answer, says):
    with pytest.raises(RewardError, match=says):
        _scorer(lambda batch: answer).score(_rollout())


def test_scores_travel_between_processes():
    """The main process shares what a function or service said: everything in it must be picklable."""
    sent = pickle.loads(pickle.dumps(Scores(np.ones(2, np.float32), None)))
    assert sent.values.tolist() == [1, 1] and sent.valid is None and not sent.by_source and not sent.notes
