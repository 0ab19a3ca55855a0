"""Rewards never become a silent zero: failures are retried, then stop the run or mask the group."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest

from alignment.errors import RewardError
from alignment.records import Rollout
from alignment.rollout.scorers import FailurePolicy, HttpReward, ModelScorer, TextBatch, TextScorer


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
        (ValueError("broken"), "ValueError: broken"),
    ],
)
def test_after_the_last_try_the_run_stops_with_the_reason(answer, reason):
    calls = []

    def call(batch):
        calls.append(1)
        if isinstance(answer, Exception):
            raise answer
        return answer

    with pytest.raises(RewardError, match=f"failed 3 times, last: .*{reason}"):
        _scorer(call, retries=2).score(_rollout())
    assert len(calls) == 3


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
    with pytest.raises(RewardError, match="nan for row 1"):
        scorer.score(_rollout())


@pytest.fixture
def service():
    """A local HTTP service whose answer the test sets; yields (address, settings)."""
    settings = {"answer": {"score": [1.0]}, "status": 200, "requests": []}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            settings["requests"].append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(settings["status"])
            self.end_headers()
            self.wfile.write(json.dumps(settings["answer"]).encode())

        def log_message(self, *args):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/score", settings
    server.shutdown()
    server.server_close()


def test_the_service_speaks_the_reference_protocol(service):
    address, settings = service
    settings["answer"] = {"score": [1.0, 2.0, 3.0, 4.0]}
    scores = _scorer(HttpReward(address, timeout_seconds=5)).score(_rollout())
    assert scores.values.tolist() == [1.0, 2.0, 3.0, 4.0]
    assert settings["requests"][0]["response"] == ["w3", "w4", "w5 w6", "w7"]
    assert settings["requests"][0]["src"][0] == "question 0"
    assert settings["requests"][0]["tgt"] == ["label"] * 4


@pytest.mark.parametrize(
    ("status", "answer", "reason"), [(500, {}, "HTTP Error 500"), (200, {"rewards": []}, "without 'score'")]
)
def test_a_failing_service_stops_the_run(service, status, answer, reason):
    address, settings = service
    settings.update(status=status, answer=answer)
    with pytest.raises(RewardError, match=reason):
        _scorer(HttpReward(address, timeout_seconds=5), retries=1).score(_rollout())
    assert len(settings["requests"]) == 2
