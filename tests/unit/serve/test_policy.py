"""A served policy: the offline engine's answers, in OpenAI's form, whoever else asks."""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest

from alignment.errors import UserError
from alignment.generation.eager.eager_engine import EagerEngine
from alignment.generation.engine import GenerationOptions
from alignment.generation.fused.kernels import CpuKernels
from alignment.models.folders.hub import load_causal_lm
from alignment.serve.policy import service as service_module
from alignment.serve.policy.service import PolicyService, PolicySettings
from tests.unit.serve.served import JSON, PROMPT, TOKEN, chat, complete, events, policy_server, refused


@functools.cache
def eager_engine(folder, vocabulary):
    engine = EagerEngine(load_causal_lm(folder), usable_vocab_size=vocabulary)
    engine.load_weights(None, 0)
    return engine


def offline(folder, service, prompts, *, seed, count=1, **options):
    """Return the eager engine's completions, ``count`` for each of ``prompts``."""
    engine = eager_engine(folder, len(service.voice.tokenizer))
    options = GenerationOptions(**{"max_new_tokens": 12, "stop_token_ids": service.voice.ends, **options})
    rows = [prompt for prompt in prompts for _ in range(count)]
    return engine.generate(rows, options, seed=seed, sequence_ids=range(len(rows)))


def test_64_clients_get_the_answers_of_the_offline_engine(tiny, folders):
    """Lengths, seeds and options differ, some stream, and there are 8 slots."""
    client, service = tiny
    words = PROMPT.split()
    kinds = [{}, {"temperature": 0}, {"top_p": 0.7, "temperature": 1.2}, {"n": 3}, {"stream": True}]

    def ask(number):
        keys = {"prompt": " ".join(words[: 1 + number % 4]), "seed": number, "return_token_ids": True}
        answer = complete(client, **keys, **kinds[number % len(kinds)])
        assert answer.status_code == 200, answer.text
        return answer

    with ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(ask, range(64)))
    for number, answer in enumerate(answers):
        ids = service.voice.encoder.open_text(" ".join(words[: 1 + number % 4]))
        kind = kinds[number % len(kinds)]
        options = {name: kind[name] for name in ("top_p", "temperature") if kind.get(name)}
        options |= {"do_sample": kind.get("temperature") != 0}
        wanted = offline(folders / "one", service, [ids], seed=number, count=kind.get("n", 1), **options)
        if kind.get("stream"):
            pieces = [event["choices"][0] for event in events(answer)]
            text, tokens = "".join(piece["text"] for piece in pieces), sum((piece["token_ids"] for piece in pieces), [])
            choices = [{**pieces[0], "text": text, "token_ids": tokens, "finish_reason": pieces[-1]["finish_reason"]}]
        else:
            choices = answer.json()["choices"]
        assert [choice["token_ids"] for choice in choices] == [one.token_ids.tolist() for one in wanted]
        texts = [service.voice.tokenizer.decode(one.token_ids.tolist()) for one in wanted]
        assert [choice["text"] for choice in choices] == texts
        assert [choice["finish_reason"] for choice in choices] == [one.finish_reason for one in wanted]
        assert choices[0]["prompt_token_ids"] == ids
    assert service.room.taken == 0


def test_an_address_continues_the_numbers_of_a_seed(tiny, folders):
    """``sequence_id`` is the place of the first answer among all, as ``alignment generate`` counts them."""
    client, service = tiny
    ids = service.voice.encoder.open_text(PROMPT)
    wanted = offline(folders / "one", service, [ids], seed=5, count=5)[3:]
    got = complete(client, prompt=ids, n=2, sequence_id=3, return_token_ids=True).json()["choices"]
    assert [choice["token_ids"] for choice in got] == [one.token_ids.tolist() for one in wanted]


def test_logprobs_are_told(tiny, folders):
    client, service = tiny
    ids = service.voice.encoder.open_text(PROMPT)
    [wanted] = offline(folders / "one", service, [ids], seed=5)
    told = complete(client, logprobs=2).json()["choices"][0]["logprobs"]
    assert np.allclose(told["token_logprobs"], wanted.logprobs, atol=1e-5)
    assert len(told["tokens"]) == len(told["text_offset"]) == len(wanted.token_ids)
    assert all(len(one) == 2 for one in told["top_logprobs"])
    content = chat(client, logprobs=True, top_logprobs=3, temperature=0).json()["choices"][0]["logprobs"]["content"]
    for token in content:
        assert token["top_logprobs"][0]["token"] == token["token"] == bytes(token["bytes"]).decode()
        assert token["top_logprobs"][0]["logprob"] == pytest.approx(token["logprob"], abs=1e-5)


def test_an_answer_ends_before_a_stop_string(tiny):
    client, _ = tiny
    long = {"min_tokens": 12}
    free = complete(client, **long).json()
    words = free["choices"][0]["text"].split()
    stop = next(word for place, word in enumerate(words) if place and word not in words[:place])
    answer = complete(client, stop=[stop, "never"], return_token_ids=True, **long).json()
    [choice] = answer["choices"]
    assert choice["text"] == free["choices"][0]["text"].split(stop)[0] and choice["finish_reason"] == "stop"
    assert answer["usage"]["completion_tokens"] == len(choice["token_ids"]) < free["usage"]["completion_tokens"]
    streamed = events(complete(client, stop=stop, stream=True, **long))
    assert "".join(event["choices"][0]["text"] for event in streamed) == choice["text"]


def test_a_stop_token_ends_an_answer(tiny):
    client, _ = tiny
    choices = (complete(client, return_token_ids=True, seed=seed).json()["choices"][0] for seed in range(20))
    seed, tokens = next((seed, one["token_ids"]) for seed, one in enumerate(choices) if len(set(one["token_ids"])) > 4)
    stop = next(token for token in tokens if token != tokens[0])
    [choice] = complete(client, return_token_ids=True, stop_token_ids=[stop], seed=seed).json()["choices"]
    assert choice["token_ids"] == tokens[: tokens.index(stop) + 1] and choice["finish_reason"] == "stop"


def test_chat_is_the_completion_of_the_rendered_conversation(tiny):
    client, service = tiny
    answer = chat(client).json()
    assert answer["object"] == "chat.completion" and answer["model"] == "tiny"
    ids = service.voice.encoder.encode_prompt([PROMPT]).ids
    same = complete(client, prompt=ids).json()
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": same["choices"][0]["text"]}
    assert answer["usage"] == same["usage"]
    found = events(chat(client, stream=True, stream_options={"include_usage": True}))
    assert found[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    text = "".join(event["choices"][0]["delta"]["content"] for event in found[1:-1])
    assert text == same["choices"][0]["text"] and found[0]["object"] == "chat.completion.chunk"
    assert found[-1]["choices"] == [] and found[-1]["usage"] == answer["usage"]
    assert found[-2]["choices"][0]["finish_reason"] == answer["choices"][0]["finish_reason"]


def test_an_answer_without_a_seed_tells_the_one_it_had(tiny):
    client, _ = tiny
    first = complete(client, seed=None, max_tokens=20).json()
    again = complete(client, seed=first["seed"], max_tokens=20).json()
    assert first["choices"] == again["choices"]
    assert complete(client, seed=None).json()["seed"] != first["seed"]


def test_echo_begins_with_the_prompt(tiny):
    client, _ = tiny
    plain, echoed = complete(client).json(), complete(client, echo=True).json()
    assert echoed["choices"][0]["text"] == PROMPT + plain["choices"][0]["text"]


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"temprature": 1}, ("unknown key 'temprature'", "did you mean 'temperature'")),
        ({"temperature": -1}, ("temperature=-1", "0 or more")),
        ({"temperature": True}, ("temperature=true",)),
        ({"top_p": 0}, ("top_p",)),
        ({"n": 0}, ("n=0", "1 or more")),
        ({"n": 10_000}, ("10000 answers in one request",)),
        ({"prompt": []}, ("prompt=[]",)),
        ({"prompt": [99]}, ("prompt=[99]", "0 to 23")),
        ({"prompt": [1.5]}, ("prompt=[1.5]",)),
        ({"max_tokens": 64}, ("may have 64", "together at most 64")),
        ({"stop": [""]}, ("stop",)),
        ({"stop": 5}, ("stop=5",)),
        ({"frequency_penalty": 0.5}, ("frequency_penalty=0.5",)),
        ({"echo": True, "logprobs": 1}, ("echo with logprobs",)),
        ({"stream_options": {"include_usage": True}}, ("needs stream: true",)),
        ({"seed": "one"}, ('seed="one"',)),
        ({"best_of": 3}, ("best_of=3",)),
        ({"temperature": 10**400}, ("temperature=1000", "0 or more")),
        ({"temperature": 1e-40}, ("temperature=1e-40", "1e-05")),
        ({"temperature": 1e300}, ("temperature=1e+300", "1e+05")),
        ({"repetition_penalty": 1e-300}, ("repetition_penalty=1e-300", "0.001")),
        ({"top_k": 2**31}, ("top_k=2147483648", "2147483647")),
        ({"stop_token_ids": [24]}, ("stop_token_ids=24", "0 to 23")),
        ({"stream": True, "stream_options": {"include_usage": "no"}}, ("stream_options",)),
    ],
)
def test_a_wrong_request_is_refused_by_name(tiny, keys, said):
    refused(complete(tiny[0], **keys), 400, *said)


def test_other_wrong_requests(tiny):
    client, _ = tiny
    refused(complete(client, model=["tiny"]), 404, "no model ['tiny']")
    refused(complete(client, model="tinny"), 404, "no model 'tinny'", "did you mean 'tiny'")
    refused(client.post("/v1/completions", content=b"{", headers=JSON), 400, "not JSON")
    for half in (b'"\\ud800"', b'"\xed\xa0\x80"'):
        content = b'{"prompt": ' + half + b"}"
        refused(client.post("/v1/completions", content=content, headers=JSON), 400, "not JSON", "'utf-8' codec")
    refused(client.post("/v1/completions", json=[1]), 400, "must be a JSON object")
    refused(client.post("/v1/completions", content=b"{}"), 415, "application/json")
    refused(client.post("/v1/completions", json={"prompt": "a" * 2**20}), 413, "more than 1048576 bytes")

    def endless():
        for _ in range(20):
            yield b'{"prompt": "' + b"a" * 2**17

    chunked = client.post("/v1/completions", content=endless(), headers=JSON)
    refused(chunked, 413, "more than")
    refused(client.get("/v1/completions"), 405, "GET /v1/completions")
    refused(client.get("/nothing"), 404, "GET /nothing")
    refused(chat(client, messages=[]), 400, "messages")
    refused(chat(client, messages=[{"role": "assistant", "content": "a"}]), 400, "must be a user's")
    refused(chat(client, messages=[{"role": "robot", "content": "a"}]), 400, "robot")
    refused(chat(client, top_logprobs=2), 400, "needs logprobs")


def test_a_token_is_needed(tiny):
    client, _ = tiny
    for given in ("Bearer wrong", "Basic !!", "", "Bearer"):
        refused(client.get("/v1/models", headers={"Authorization": given}), 401, "a token is needed")
    assert client.get("/health", headers={"Authorization": ""}).json() == {"status": "ok"}
    assert client.head("/health", headers={"Authorization": ""}).status_code == 200
    assert client.get("/v1/models", auth=("any", TOKEN)).status_code == 200
    [model] = client.get("/v1/models").json()["data"]
    assert model["id"] == "tiny" and model["max_model_len"] == 64 and model["owned_by"] == "alignment"
    assert client.get("/v1/models/tiny").json() == model


def test_metrics_count(tiny):
    client, _ = tiny
    before = client.get("/metrics").text
    tokens = complete(client).json()["usage"]["completion_tokens"]
    after = client.get("/metrics").text

    def read(text, name):
        return next((float(line.split()[-1]) for line in text.splitlines() if line.startswith(name)), 0.0)

    counted = 'alignment_requests_total{path="/v1/completions",status="200"}'
    assert read(after, counted) == read(before, counted) + 1
    assert read(after, "alignment_generated_tokens_total") == read(before, "alignment_generated_tokens_total") + tokens
    assert read(after, 'alignment_answers_running{model="tiny"}') == 0


def test_a_server_without_a_token_is_for_this_machine(folders):
    with policy_server(folders / "one") as (client, _, _):
        assert complete(client).status_code == 200
        for host in ("evil.example:80", "localhost.evil.example", "127.0.0.1.evil.example:8000", ""):
            refused(client.get("/v1/models", headers={"Host": host}), 403, host, "not this machine")
        for host in ("LocalHost", "[::1]", "[::1]:8000", "127.0.0.2:8000"):
            assert client.get("/v1/models", headers={"Host": host}).status_code == 200
        refused(client.post("/reload", json={}), 403, "--token_file")


@pytest.fixture
def slow(folders, monkeypatch, request):
    """A server whose passes take 40 ms, with 2 slots and a queue of 2."""
    from alignment.generation.fused.live_batch import LiveBatch

    step = LiveBatch.step
    monkeypatch.setattr(LiveBatch, "step", lambda self: (time.sleep(0.04), step(self))[1])
    with policy_server(
        folders / "one", num_slots=2, max_queue=2, request_timeout=getattr(request, "param", 60)
    ) as found:
        yield found


@pytest.mark.parametrize("slow", [1.0], indirect=True)
def test_limits_on_time_and_queue(slow):
    client, service, _ = slow
    long = {"max_tokens": 50, "min_tokens": 50}
    refused(complete(client, **long), 504, "within 1 s")
    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(complete, client, n=2, **long) for _ in range(3)]
        codes = sorted(future.result().status_code for future in futures)
        full = next(future.result() for future in futures if future.result().status_code == 429)
    assert codes == [429, 504, 504] and full.headers["Retry-After"] == "1"
    refused(full, 429, "4 answers are being generated or wait")
    assert "within 1 s" in complete(client, stream=True, **long).text
    assert complete(client, max_tokens=3).status_code == 200, "the slots are free again"


@pytest.mark.parametrize("streams", [True, False])
def test_a_client_that_leaves_frees_its_slots(slow, streams):
    client, service, _ = slow
    keys = {"prompt": PROMPT, "max_tokens": 50, "min_tokens": 50, "n": 4}
    if streams:
        with client.stream("POST", "/v1/completions", json={**keys, "stream": True}) as answer:
            lines = answer.iter_lines()  # an iterator that is dropped closes the connection
            next(lines)
            assert service.room.taken == 4
    else:
        with pytest.raises(Exception, match="timed out"):
            client.post("/v1/completions", json=keys, timeout=0.1)
    batch = service._thread._batch
    while service.room.taken or batch.num_running:
        time.sleep(0.01)
    assert batch.counts.steps < 90, "whole answers take 100 passes"


def test_running_requests_end_and_new_ones_are_refused(slow):
    client, service, server = slow
    answers = []
    asking = threading.Thread(target=lambda: answers.append(complete(client, max_tokens=50, min_tokens=50)))
    asking.start()
    while not service.room.taken:
        time.sleep(0.01)
    server.handle_exit(15, None)
    with pytest.raises(httpx.ConnectError, match="refused"):
        while asking.is_alive():
            # A connection that was waiting when the server stopped listening is reset.
            with contextlib.suppress(httpx.RemoteProtocolError, httpx.ReadError):
                client.get("/health", headers={"Connection": "close"})
    asking.join()
    assert answers[0].status_code == 200 and answers[0].json()["usage"]["completion_tokens"] == 50


def test_an_engine_that_fails_answers_500_and_recovers(folders, monkeypatch):
    from alignment.generation.fused.live_batch import LiveBatch

    with policy_server(folders / "one") as (client, service, _):
        with monkeypatch.context() as patch:
            patch.setattr(LiveBatch, "step", lambda self: 1 / 0)
            refused(complete(client), 500, "ZeroDivisionError")
        assert complete(client).status_code == 200 and service.room.taken == 0


def test_a_fault_of_the_server_is_answered_once_on_a_connection_that_stays(tiny, monkeypatch, capfd):
    client, service = tiny
    with monkeypatch.context() as patch:
        patch.setattr(service.room, "check", lambda *_: 1 / 0)
        refused(complete(client), 500, "ZeroDivisionError")
    assert capfd.readouterr().err.count("ZeroDivisionError") == 1
    assert complete(client).status_code == 200


def test_the_eager_engine_serves_what_the_kernels_cannot(folders, monkeypatch, tiny):
    monkeypatch.setattr(CpuKernels, "obstacle", lambda *_: "no reason")
    with policy_server(folders / "one") as (client, service, _):
        wanted = complete(tiny[0], n=2).json()["choices"]
        assert complete(client, n=2).json()["choices"] == wanted
        text = "".join(event["choices"][0]["text"] for event in events(complete(client, stream=True)))
        assert text == wanted[0]["text"]
        refused(complete(client, logprobs=1), 400, "likeliest")


def test_longrope_answers_prompts_on_both_sides_of_its_old_context(folders):
    short, crossing, long = list(range(4, 16)), list(range(4, 20)), list(range(3, 22)) + list(range(3, 22))
    with policy_server(folders / "longrope") as (client, service, _):
        prompts = {"prompt": [short, long], "return_token_ids": True}
        found = [choice["token_ids"] for choice in complete(client, **prompts).json()["choices"]]
        wanted = offline(folders / "longrope", service, [short, long], seed=5)
        assert found == [answer.token_ids.tolist() for answer in wanted]
        for prompt in (crossing, [crossing, long]):
            refused(complete(client, prompt=prompt), 400, "has 16 tokens", "at most 24, original_max_position_emb")
        refused(complete(client, prompt=long, max_tokens=30), 400, "has 38 tokens", "together at most 64")
        wordy = {"role": "user", "content": " ".join([PROMPT] * 8)}
        for messages, longest in (([{"role": "user", "content": PROMPT}], 24), ([wordy], 64)):
            usage = chat(client, messages=messages, max_tokens=None, min_tokens=1).json()["usage"]
            assert usage["total_tokens"] <= longest
        assert usage["prompt_tokens"] > 24


def test_without_memory_the_flags_that_need_less_are_named(folders, monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("no memory for the key/value pool")

    monkeypatch.setattr(service_module, "open_engine", refuse)
    settings = PolicySettings(num_slots=3, device="cpu")
    with pytest.raises(
        UserError, match=r"no memory .* --max_length \(now 64\) or --num_slots \(now 3\), or --kv_memory"
    ):
        PolicyService(str(folders / "one"), settings)
