"""What every source of rewards promises (``rollout.rewards.scorers.Scorer``): one finite number a row, or an error."""

from __future__ import annotations

import dataclasses
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import paddle
import pytest

from alignment.errors import NotFiniteError, RewardError
from alignment.parallel.build_runner import build_runner
from alignment.parallel.topology import Topology
from alignment.records import Rollout
from alignment.rollout.rewards.combined import CombinedScorer, RewardSource
from alignment.rollout.rewards.reward_service import HttpReward
from alignment.rollout.rewards.scorers import FailurePolicy, ModelScorer, TextScorer
from tests.tiny_models import tiny_score

POLICY = FailurePolicy(retries=0, backoff_seconds=0.0)


class Words:
    """Decodes token 3 as ``3``."""

    def decode(self, ids, *, skip_special_tokens=True):
        return " ".join(map(str, ids))


def number_of(response, *, damaged):
    return float("nan") if damaged else 0.25 * len(response) - 1


@pytest.fixture
def rollout():
    responses = ([3], [4, 5], [6, 7, 8, 9], [10, 11, 12])
    return Rollout(
        prompts=tuple(np.array([1, 2 + i]) for i in range(4)),
        responses=tuple(map(np.array, responses)),
        finish_reasons=("stop",) * 4,
        group_ids=np.array([0, 0, 1, 1]),
        inputs=("a", "a", "b", "b"),
        labels=(None,) * 4,
    )


def reorder(rollout, order):
    texts = {name: tuple(getattr(rollout, name)[i] for i in order) for name in
             ("prompts", "responses", "finish_reasons", "inputs", "labels")}  # fmt: skip
    return dataclasses.replace(rollout, group_ids=rollout.group_ids[order], **texts)


def function_scorer(damaged):
    def call(batch):
        return [number_of(response, damaged=damaged) for response in batch.responses]

    yield TextScorer(call, Words(), name="reward function", policy=POLICY)


def service_scorer(damaged):
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            body = json.dumps({"score": [number_of(response, damaged=damaged) for response in asked["response"]]})
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    call = HttpReward(f"http://127.0.0.1:{server.server_port}/", timeout_seconds=10)
    yield TextScorer(call, Words(), name="reward service", policy=POLICY)
    server.shutdown()
    server.server_close()


def model_scorer(damaged):
    model = tiny_score(std=0.4)
    model.eval()
    if damaged:
        model.score.weight.set_value(paddle.full_like(model.score.weight, float("nan")))
    runner = build_runner(model, Topology(device="cpu"))

    def sequences(rollout):
        return [np.concatenate(pair) for pair in zip(rollout.prompts, rollout.responses, strict=True)]

    yield ModelScorer(runner, sequences, rows_per_batch=3)


def combined_scorer(damaged):
    """A model and a function, one of which is damaged."""
    (model,), (function,) = model_scorer(False), function_scorer(damaged)
    sources = [("model", model, 2.0), ("function", function, -0.5)]
    yield CombinedScorer([RewardSource(log_as=name, scorer=one, factor=factor) for name, one, factor in sources])


SCORERS = {
    "function": function_scorer, "service": service_scorer, "model": model_scorer, "combined": combined_scorer
}  # fmt: skip


@pytest.fixture(params=SCORERS)
def scorer(request):
    yield from SCORERS[request.param](False)


@pytest.fixture(params=SCORERS)
def damaged(request):
    yield from SCORERS[request.param](True)


def test_one_finite_number_a_row(scorer, rollout):
    found = scorer.score(rollout)
    assert found.values.shape == (4,) and found.values.dtype == np.float32
    assert np.isfinite(found.values).all() and found.valid is None
    assert len(set(found.values.tolist())) == 4, "rows differ, so do their scores"


def test_scores_follow_their_rows(scorer, rollout):
    order = np.array([2, 0, 3, 1])
    expected = scorer.score(rollout).values[order]
    np.testing.assert_allclose(scorer.score(reorder(rollout, order)).values, expected, atol=1e-6)


def test_a_row_is_scored_by_itself_as_among_others(scorer, rollout):
    together = scorer.score(rollout).values
    alone = [scorer.score(reorder(rollout, np.array([i]))).values[0] for i in range(4)]
    np.testing.assert_allclose(alone, together, atol=1e-6)


def test_what_is_not_finite_is_an_error_and_never_a_zero(damaged, rollout):
    with pytest.raises((RewardError, NotFiniteError), match=r"(?i)nan|finite"):
        damaged.score(rollout)


def test_scoring_changes_nothing(scorer, rollout):
    before = [response.copy() for response in rollout.responses]
    first, second = scorer.score(rollout).values, scorer.score(rollout).values
    np.testing.assert_array_equal(first, second)
    assert all(np.array_equal(old, new) for old, new in zip(before, rollout.responses, strict=True))
