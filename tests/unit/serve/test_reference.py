"""A served reference: log-probs of the model in this process, bit for bit, and one message for what it cannot do."""

from __future__ import annotations

from contextlib import contextmanager

import httpx
import numpy as np
import pytest

from alignment.errors import ModelFolderError, UserError
from alignment.models.folders.hub import load_causal_lm
from alignment.parallel.dense import DenseRunner
from alignment.records import Rollout
from alignment.rollout.forward import measure_logprobs
from alignment.rollout.reference_service import PATH, ReferenceClient, ServiceLimits
from alignment.serve.counters import ServerCounters
from alignment.serve.guard import Access
from alignment.serve.reference import service as serving
from alignment.serve.reference.routes import ReferenceRoutes
from alignment.serve.shell import build_app
from tests.unit.serve.served import TOKEN, refused, running

ROLLOUT = Rollout(
    prompts=(np.array([1, 5, 7]), np.array([1, 5, 7]), np.array([1, 6]), np.array([1, 8, 9, 4])),
    responses=(np.array([3, 4, 2]), np.array([9]), np.array([5, 5, 5, 5, 2]), np.array([2])),
    finish_reasons=("stop",) * 4,
    group_ids=np.array([0, 0, 1, 2]),
)
LIMITS = ServiceLimits(timeout_seconds=30, retries=1, backoff_seconds=0.01)


@contextmanager
def reference_server(folder, **settings):
    """Serve the reference in ``folder``; yields (a client for anything, the address with its token, the service)."""
    counters, access = ServerCounters(), Access(token=TOKEN, only_local_names=False)
    service = serving.ReferenceService(str(folder), serving.ReferenceSettings(device="cpu", **settings), counters)
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with (
        running(build_app(ReferenceRoutes(service, access).routes(), access, counters)) as (address, _, _),
        httpx.Client(base_url=address, headers=headers, timeout=60) as client,
    ):
        yield client, address.replace("//", f"//any:{TOKEN}@"), service
    service.close()


@pytest.fixture(scope="module")
def served(folders):
    with reference_server(folders / "one", max_queue=64) as found:
        yield found


@pytest.mark.parametrize(("rows", "temperature"), [(2, 1.0), (3, 0.7)])
def test_the_numbers_are_those_of_the_model_in_this_process(folders, served, rows, temperature):
    asked = ReferenceClient(served[1], LIMITS)
    identity = asked.identify()
    found = asked.logprobs(ROLLOUT, rows_per_batch=rows, temperature=temperature)
    model = load_causal_lm(folders / "one")
    wanted, _ = measure_logprobs(DenseRunner(model), ROLLOUT, rows_per_batch=rows, temperature=temperature)
    assert found.dtype == np.float32 and np.array_equal(found, wanted) and found.any()
    assert (identity.longest, identity.dtype) == (64, "float32") and served[2].room.taken == 0


def test_other_weights_than_at_the_start_are_refused(served, monkeypatch):
    asked = ReferenceClient(served[1], LIMITS)
    asked.identify()
    monkeypatch.setattr(served[2], "identity", served[2].identity._replace(weights="others"))
    with pytest.raises(ModelFolderError, match=r"has loaded other weights than at the start.*'others'") as caught:
        asked.logprobs(ROLLOUT, rows_per_batch=4, temperature=1.0)
    assert TOKEN not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({}, "prompts=null (allowed: a list of lists of token ids)"),
        ({"prompts": [[1]], "responses": []}, "responses=[]"),
        ({"prompts": [[1], [1]], "responses": [[2]]}, "2 prompts for 1 responses"),
        ({"prompts": [[1]], "responses": [[]]}, "answer 0 has 1 tokens of prompt and 0 of response"),
        ({"prompts": [[1]], "responses": [[24]]}, "answer 0 has token 24; the model knows 0 to 23"),
        ({"prompts": [[1] * 60], "responses": [[2] * 5]}, "answer 0 has 65 tokens; the model reads 64"),
        ({"prompts": [[1]], "responses": [[2]], "temperature": 0}, "temperature=0 (allowed: above 0)"),
        ({"prompts": [[1]], "responses": [[2]], "temprature": 1}, "unknown key 'temprature'"),
        ({"prompts": [[1]] * 81, "responses": [[2]] * 81}, "81 answers in one request (allowed: 80"),
    ],
)
def test_what_cannot_be_read_is_refused(served, content, said):
    refused(served[0].post(PATH, json=content), 400, said)
    assert served[2].room.taken == 0


def test_too_many_answers_wait_or_are_asked_for_again(folders):
    with reference_server(folders / "one", max_queue=0, rows_per_batch=1) as (_, address, service):
        service.room.taken = 1
        asked = ReferenceClient(address, LIMITS)
        asked.identify()
        with pytest.raises(UserError, match=r"reference_server=.* failed 2 times, last: .* status 429"):
            asked.logprobs(ROLLOUT, rows_per_batch=1, temperature=1.0)


def test_numbers_that_are_not_finite_are_an_error(folders, served, monkeypatch):
    monkeypatch.setattr(serving, "measure_logprobs", lambda *_, **__: (np.full([1, 1], np.nan, np.float32), None))
    found = served[0].post(PATH, json={"prompts": [[1]], "responses": [[2]]})
    refused(found, 500, "log-probs of answer 0 are NaN or infinite")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"logprobs": [[-1.0]], "weights": "w"}, "log-probs of shapes"),
        ({"logprobs": [["x"]] * 4, "weights": "w"}, "no list of log-probs"),
        ({"logprobs": 5, "weights": "w"}, "no list of log-probs"),
        ({"logprobs": []}, "answered without 'weights'"),
    ],
)
def test_an_answer_of_another_form_is_refused(monkeypatch, answer, said):
    asked = ReferenceClient("http://127.0.0.1:9/", LIMITS)
    asked._weights = "w"

    def ask(content, *, wanted):
        missing = [key for key in wanted if key not in answer]
        if missing:
            raise UserError(f"answered without {missing[0]!r}")
        return answer

    monkeypatch.setattr(asked.service, "ask", ask)
    with pytest.raises(UserError, match=said):
        asked.logprobs(ROLLOUT, rows_per_batch=4, temperature=1.0)


def test_a_server_that_is_down_is_named_without_its_password():
    asked = ReferenceClient(f"http://any:{TOKEN}@127.0.0.1:9", LIMITS)
    with pytest.raises(
        UserError, match=r"reference_server=http://127\.0\.0\.1:9/logprobs failed 2 times.*refused"
    ) as caught:
        asked.identify()
    assert TOKEN not in str(caught.value)
