"""alignment generate against servers: the file of the local engine, whichever server answers, faults included."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route

from alignment.arguments.parser import parse_arguments
from alignment.errors import ArgumentError, UserError
from alignment.models.folders.hub import load_causal_lm
from alignment.models.folders.saving import save_model
from alignment.models.tokenizer.tokenizer import load_tokenizer
from alignment.parity.subjects import make_models
from alignment.runs.stages import server_pool
from alignment.runs.stages.generate import Generation
from alignment.runs.stages.generate_arguments import GROUPS
from alignment.runs.stages.served_answers import read_choices
from alignment.runs.stages.server_pool import Nonsense
from alignment.runs.stages.stage import run_stage
from alignment.serve.guard import Access
from tests.unit.serve.served import TOKEN, policy_server, running

PROMPTS = [f"pack {thing}" for thing in ("lamp", "tent", "boots", "lamp", "rope knife", "coat", "apple bread")]


@pytest.fixture(scope="module")
def actor(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    make_models(folder)
    return folder / "actor"


@pytest.fixture
def written(actor, tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": text, "answer": text[5:]}) + "\n" for text in PROMPTS))
    return {
        "model_name_or_path": str(actor),
        "prompts": str(prompts),
        "output_file": str(tmp_path / "answers.jsonl"),
        "K": 3,
        "max_new_tokens": 8,
        "device": "cpu",
        "per_device_rollout_batch_size": 6,
        "server_retries": 2,
    }


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(server_pool, "_PAUSE_SECONDS", 0.01)


def run(written, *addresses, **changes):
    """Return the bytes of the answers, and remove the file."""
    parsed = parse_arguments(GROUPS, written | changes | {"servers": " ".join(addresses)})
    run_stage(Generation(parsed))
    with open(parsed.generate.output_file, "rb") as file:
        content = file.read()
    Path(parsed.generate.output_file).unlink()
    return content


class Other:
    """A server of another suite: its answer tells prompt and seed. ``fault`` is what it does instead."""

    def __init__(self, fault=None, *, after=0, owner="others"):
        self.fault, self.after, self.asked, self.lock = fault, after, [], threading.Lock()
        self.owner = owner

    def app(self):
        models = {"data": [{"id": "theirs", "owned_by": self.owner}]}
        return Starlette(
            routes=[
                Route("/v1/models", lambda _: JSONResponse(models)),
                Route("/v1/completions", self.complete, methods=["POST"]),
            ]
        )

    async def complete(self, request):
        body = await request.json()
        with self.lock:
            self.asked.append(body)
            is_faulty = self.fault is not None and len(self.asked) > self.after
        if is_faulty:
            return await self.fault(body)
        text = f"{body['prompt']} {body['seed']}"
        logprobs = {"tokens": ["a", "b"], "token_logprobs": [-1.0, -0.5]}
        choice = {"index": 0, "text": text, "logprobs": logprobs, "finish_reason": "stop"}
        return JSONResponse({"choices": [choice], "usage": {"completion_tokens": 2}})


async def nonsense(_):
    return JSONResponse({"choices": [{"text": 5}]})


async def no_json(_):
    return PlainTextResponse("hello")


async def failing(_):
    return JSONResponse({"error": "out of memory"}, 500)


async def refusing(_):
    return JSONResponse({"error": {"message": "max_tokens is too large"}}, 400)


async def slow(_):
    await asyncio.sleep(1.5)
    return JSONResponse({})


@pytest.fixture
def start():
    """Start servers; returns their addresses."""
    with ExitStack() as stack:
        yield lambda *servers: [stack.enter_context(running(one.app()))[0] for one in servers]


def test_our_servers_write_the_file_of_the_local_engine(written, actor, tmp_path):
    wanted = run(written)
    token = tmp_path / "token"
    token.write_text(TOKEN)
    access = Access(token=TOKEN, only_local_names=False)
    with policy_server(actor, access) as (first, _, _), policy_server(actor, access) as (second, _, _):
        addresses = [str(client.base_url) for client in (first, second)]
        keys = {"server_token_file": str(token)}
        assert run(written, *addresses, **keys) == wanted
        assert run(written, addresses[0].rstrip("/").rsplit(":", 1)[1], **keys) == wanted, "a port"
        for name, changes in (("greedy", {"do_sample": False}), ("filtered", {"top_k": 3, "min_dec_len": 4})):
            assert run(written, *addresses, **keys, **changes) == run(written, **changes), name
        with pytest.raises(UserError, match="status 401"):
            run(written, *addresses)


def test_the_file_does_not_depend_on_which_other_server_answers(written, start):
    servers = [Other(), Other()]
    addresses = start(*servers)
    both = run(written, *addresses)
    assert all(server.asked for server in servers), "both are asked"
    assert both == run(written, addresses[1])
    rows = [json.loads(line) for line in both.decode().splitlines()]
    assert [row["prompt"] for row in rows] == PROMPTS and [row["index"] for row in rows] == list(range(7))
    assert rows[0]["num_tokens"] == [2, 2, 2] and rows[0]["logprobs"] == [-1.5] * 3
    assert len({text for row in rows for text in row["responses"]}) == 21, "each answer has a seed of its own"
    assert run(written, addresses[0], seed=43) != both
    [body] = [body for body in servers[0].asked if isinstance(body["prompt"], list)][:1]
    assert body["model"] == "theirs" and body["max_tokens"] == 8 and "sequence_id" not in body
    text = run(written, addresses[0], server_prompts="text")
    assert "pack lamp" in json.loads(text.decode().splitlines()[0])["responses"][0]


@pytest.mark.parametrize("fault", [nonsense, no_json, failing, slow])
def test_another_server_takes_over(written, start, fault, caplog):
    good, bad = Other(), Other(fault, after=2)
    addresses = start(good, bad)
    timeout = {"server_timeout": 0.5} if fault is slow else {}
    assert run(written, *addresses, **timeout) == run(written, addresses[0])
    assert len(bad.asked) > 2


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (nonsense, r"answered nonsense \(a choice without text.*3 tries \(server_retries\)"),
        (no_json, r"answered nonsense \(no JSON\): 'hello'"),
        (failing, "answered with status 500: .*out of memory"),
        (refusing, "refused the request with status 400: .*max_tokens is too large"),
        (slow, r"no answer within 0.5 s \(server_timeout\)"),
    ],
)
def test_what_no_server_answers_stops_with_a_message_and_is_continued(written, start, fault, said):
    server = Other(fault, after=12)
    [address] = start(server)
    timeout = {"server_timeout": 0.5} if fault is slow else {}
    with pytest.raises(UserError, match=said):
        run(written, address, **timeout)
    server.fault, before = None, len(server.asked)
    continued = run(written, address)
    assert len(server.asked) - before < 21, "what was done is not asked again"
    assert continued == run(written, address)


async def as_llama_cpp(body):
    content = [{"token": "a", "logprob": -1.0}, {"token": "b", "logprob": -0.5}]
    choice = {"index": 0, "text": "a b", "logprobs": {"content": content}, "finish_reason": "stop"}
    return JSONResponse({"choices": [choice], "usage": {"completion_tokens": 2}})


def test_a_server_of_llama_cpp_filters_nothing_of_its_own(written, start, caplog):
    """Its defaults (the 40 likeliest tokens, min_p, the temperature last) would give other answers without a word."""
    theirs, others = Other(as_llama_cpp, owner="llamacpp"), Other()
    rows = [json.loads(line) for line in run(written, *start(theirs), top_p=0.9, temperature=0.5).splitlines()]
    assert all(row["logprobs"] == [-1.5] * 3 and row["num_tokens"] == [2] * 3 for row in rows)
    for body in theirs.asked:
        assert body["samplers"] == ["penalties", "temperature", "top_k", "top_p"]
        assert (body["top_k"], body["top_p"], body["temperature"]) == (0, 0.9, 0.5)
    run(written, *start(theirs, others), top_k=5, repetition_penalty=1.5)
    body = theirs.asked[-1]
    assert (body["top_k"], body["repeat_penalty"], body["repeat_last_n"]) == (5, 1.5, -1)
    assert all("samplers" not in body and body["repetition_penalty"] == 1.5 for body in others.asked)
    with pytest.raises(UserError, match="min_dec_len=2: llama.cpp's server knows no such bound"):
        run(written, *start(theirs), min_dec_len=2)


def test_a_server_of_llama_cpp_python_filters_and_punishes_nothing_of_its_own(written, start):
    """Unless it is told otherwise it has the filters of llama.cpp's and a penalty of 1.1 for repetition."""
    theirs = Other(owner="me")
    run(written, *start(theirs), temperature=0.5)
    own = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "repeat_penalty": 1.0, "temperature": 0.5}
    for body in theirs.asked:
        assert {key: body.get(key) for key in own} == own and "repetition_penalty" not in body
    with pytest.raises(UserError, match=r"repetition_penalty=1.5: .* last 64 tokens only"):
        run(written, *start(theirs), repetition_penalty=1.5)
    with pytest.raises(UserError, match=r"temperature=0.5 with top_p=0.9: .* temperature last"):
        run(written, *start(theirs), temperature=0.5, top_p=0.9)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"index": "first"}, "numbers"),
        ({"index": 7}, "numbers"),
        ({"logprobs": [1]}, "logprobs is no object"),
        ({"logprobs": {"token_logprobs": [float("nan")]}}, "no numbers"),
        ({"logprobs": None}, "no number of tokens"),
    ],
)
def test_any_form_of_nonsense_is_told(changes, said):
    choice = {"index": 0, "text": "a", "logprobs": {"token_logprobs": [-1.0]}, "finish_reason": "stop"}
    assert read_choices({"choices": [choice]}, 1)["logprobs"] == [-1.0]
    with pytest.raises(Nonsense, match=said):
        read_choices({"choices": [choice | changes], "usage": {"completion_tokens": -1}}, 1)
    with pytest.raises(Nonsense, match="usage is no object"):
        read_choices({"choices": [choice], "usage": [1]}, 1)


def test_answers_are_of_one_model(written, actor, tmp_path):
    """Servers of different weights, weights loaded in between, and another tokenizer are refused."""
    other = tmp_path / "other"
    shutil.copytree(actor, other)
    weights = load_causal_lm(actor)
    next(iter(weights.parameters())).set_value(next(iter(weights.parameters())) * 2)
    save_model(other, weights, load_tokenizer(actor))
    with policy_server(actor) as (first, service, _), policy_server(other) as (second, _, _):
        addresses = [str(client.base_url) for client in (first, second)]
        with pytest.raises(UserError, match="different weights"):
            run(written, *addresses)
        answered, answer = [], type(service).answer

        def reloaded(self, ask, *, each):
            answered.append(ask)
            self.weights = "weights-new" if len(answered) > 2 else self.weights
            return answer(self, ask, each=each)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(service), "answer", reloaded)
            with pytest.raises(UserError, match=r"other weights \(weights-new\) than those served at the start"):
                run(written, addresses[0])
        with pytest.raises(ArgumentError, match="made with another served"):
            run(written, addresses[0])
    with policy_server(actor) as (client, service, _):
        service.voice.tokenizer.fingerprint = lambda: "another"
        with pytest.raises(ArgumentError, match="another tokenizer than model_name_or_path"):
            run(written, str(client.base_url), overwrite=True)


def test_servers_that_cannot_be_used(written, start):
    with pytest.raises(UserError, match="(?s)no server can be used:.*127.0.0.1:9/v1/models"):
        run(written, "9")
    for servers, said in (
        ("here", "servers: 'here'"),
        ("8000 127.0.0.1", "'127.0.0.1'"),
        ("9 http://127.0.0.1:9", "twice"),
    ):
        with pytest.raises(ArgumentError, match=said):
            run(written, servers)
    [address] = start(Other())
    with pytest.raises(UserError, match="no model mine"):
        run(written, address, server_model="mine")
    with pytest.raises(ArgumentError, match="num_workers=2 with servers"):
        run(written, address, num_workers=2)
