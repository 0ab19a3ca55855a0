"""A served reward model: the scores of ``alignment score``, in every client's form, whoever else asks."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import numpy as np
import pytest

from alignment.errors import ModelFolderError
from alignment.models.folders.hub import load_score_model
from alignment.rollout.forward import score_batch
from alignment.rollout.rewards.reward_service import HttpReward
from alignment.rollout.rewards.text_batch import TextBatch
from alignment.serve.counters import ServerCounters
from alignment.serve.guard import Access
from alignment.serve.reward.routes import PATHS, RewardRoutes
from alignment.serve.reward.service import RewardService, RewardSettings
from alignment.serve.shell import build_app
from tests.unit.serve.served import TOKEN, running

PROMPTS = ["pack rope", ["pack lamp", "lamp done", "pack tent map"], [{"role": "user", "content": "pack coat"}]]
RESPONSES = ["rope done", "tent map done", "coat"]


@contextmanager
def reward_server(folder, **settings):
    counters, access = ServerCounters(), Access(token=TOKEN, only_local_names=False)
    service = RewardService(str(folder), RewardSettings(device="cpu", rows_per_batch=8, **settings), counters)
    with running(build_app(RewardRoutes(service, access).routes(), access, counters)) as (address, _, _):
        headers = {"Authorization": f"Bearer {TOKEN}"}
        limits = httpx.Limits(max_connections=100)
        with httpx.Client(base_url=address, headers=headers, timeout=60, limits=limits) as client:
            yield client, service
    service.close()


@pytest.fixture(scope="module")
def served(folders):
    with reward_server(folders / "reward") as found:
        yield found


@pytest.fixture(scope="module")
def alone(folders, served):
    """Return the score of one prompt and response, by the model itself."""
    model, encoder = load_score_model(folders / "reward"), served[1]._voice.encoder
    model.eval()

    def score(prompt, response):
        asked = encoder.encode_prompt(prompt)
        ids = asked.ids + encoder.encode_answer(asked, response).ids
        return float(model.read_end_scores(score_batch([np.array(ids)], None))[0])

    return score


def test_the_client_of_reward_server_gets_the_scores(served, alone):
    address = str(served[0].base_url).replace("//", f"//any:{TOKEN}@")
    found = HttpReward(address, timeout_seconds=30)(TextBatch(PROMPTS, RESPONSES, [None, "a", "b"]))
    wanted = [alone(*pair) for pair in zip(PROMPTS, RESPONSES, strict=True)]
    assert np.allclose(found, wanted, atol=1e-5) and len({round(score, 4) for score in wanted}) == 3


def test_all_forms_agree(served, alone):
    client, service = served
    wanted = [alone(*pair) for pair in zip(PROMPTS, RESPONSES, strict=True)]
    plain = client.post("/reward", json={"prompts": PROMPTS, "responses": RESPONSES}).json()
    asked = service._voice.encoder.encode_prompt("pack rope")
    text = asked.text + service._voice.encoder._template.render_answer(asked.asked, asked.text, "rope done")
    whole = client.post("/get_reward", json={"query": [text, text + "<eos><pad>"], "prompts": ["", ""]}).json()
    assert np.allclose(plain["rewards"], wanted, atol=1e-5)
    assert np.allclose(whole["rewards"], wanted[0], atol=1e-5) and whole["scores"] == whole["rewards"]


def test_64_clients_share_passes_and_get_their_own_scores(served, alone):
    client, service = served
    words = ["rope", "lamp", "map", "tent", "coat", "boots"]
    asks = [("pack " + words[n % 6], " ".join(words[: n % 5 + 1])) for n in range(64)]

    def ask(pair):
        return client.post("/", json={"src": [pair[0]], "tgt": [None], "response": [pair[1]]}).json()["score"][0]

    with ThreadPoolExecutor(64) as pool:
        scores = list(pool.map(ask, asks))
    wanted = {pair: alone(*pair) for pair in set(asks)}
    assert np.allclose(scores, [wanted[pair] for pair in asks], atol=1e-5)
    page = client.get("/metrics").text
    counted = {line.split()[0]: float(line.split()[1]) for line in page.splitlines() if not line.startswith("#")}
    assert counted["alignment_score_batches_total"] < counted["alignment_scored_answers_total"]
    assert service.room.taken == 0


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({}, "no answers"),
        ({"src": ["a"], "response": []}, "1 src for 0 of response"),
        ({"src": "a", "response": ["b"]}, "no list of src"),
        ({"src": [], "tgt": [], "response": []}, "there are no answers"),
        ({"src": [5], "response": ["b"]}, "src[0]=5"),
        ({"src": [[{"role": "robot", "content": "x"}]], "response": ["b"]}, "robot"),
        ({"query": [1]}, "query=[1]"),
        ({"prompts": ["a"], "responses": ["b"], "lables": []}, "unknown key 'lables'"),
        ({"prompts": ["pack"], "responses": ["rope " * 70]}, "answer 0 has"),
        ({"prompts": ["a"] * 2000, "responses": ["b"] * 2000}, "2000 answers in one request"),
    ],
)
def test_a_wrong_request_is_refused_by_name(served, content, said):
    answer = served[0].post("/reward", json=content)
    assert answer.status_code == 400 and said in answer.json()["error"]["message"], answer.text


def test_a_token_is_needed(served):
    for path in PATHS:
        answer = served[0].post(path, json={}, headers={"Authorization": "Bearer wrong"})
        assert answer.status_code == 401 and "a token is needed" in answer.text


def test_limits_on_time_and_queue(folders, monkeypatch):
    measure = RewardService._measure
    monkeypatch.setattr(RewardService, "_measure", lambda self, waiting: (time.sleep(0.6), measure(self, waiting))[1])
    with reward_server(folders / "reward", request_timeout=0.3, max_queue=0) as (client, service):
        content = {"prompts": ["pack"] * 8, "responses": ["rope"] * 8}
        with ThreadPoolExecutor(2) as pool:
            codes = [a.status_code for a in pool.map(lambda _: client.post("/", json=content), range(2))]
        assert sorted(codes) == [429, 504] and service.room.taken == 0
        monkeypatch.undo()
        content = {"prompts": ["pack"], "responses": ["rope"]}
        while client.post("/", json=content).status_code == 504:
            pass
        assert client.post("/", json=content).status_code == 200, "it goes on"


def test_numbers_that_are_none_are_an_error(folders, monkeypatch):
    with reward_server(folders / "reward") as (client, service):
        monkeypatch.setattr(
            "alignment.serve.reward.service.measure_scores", lambda *_, **__: np.array([np.nan], np.float32)
        )
        answer = client.post("/", json={"prompts": ["pack"], "responses": ["rope"]})
        assert answer.status_code == 500 and "score of answer 0 is nan" in answer.json()["error"]["message"]


def test_a_policy_is_no_reward_model(folders):
    with pytest.raises(ModelFolderError, match="holds no reward model"):
        RewardService(str(folders / "one"), RewardSettings(device="cpu"), ServerCounters())
