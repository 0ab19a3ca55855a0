"""Servers in this process."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from contextlib import contextmanager

import httpx

from alignment.serve.counters import ServerCounters
from alignment.serve.guard import Access
from alignment.serve.policy.routes import PolicyRoutes
from alignment.serve.policy.service import PolicyService, PolicySettings
from alignment.serve.shell import Address, build_app, listen, make_server

TOKEN = "a-token-of-the-tests"
PROMPT = "pack rope lamp map"
JSON = {"Content-Type": "application/json"}


@contextmanager
def running(app):
    """Serve ``app`` in a thread; yields (address, the server, its thread)."""
    bound, server = listen(Address("127.0.0.1", 0)), make_server(app, shutdown_timeout=10)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[bound])))
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{bound.getsockname()[1]}", server, thread
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def policy_server(folder, access=None, **settings):
    """Serve the policy in ``folder`` as "tiny"; yields (a client, its service, the server)."""
    counters, access = ServerCounters(), access or Access()
    service = PolicyService(str(folder), PolicySettings(**{"num_slots": 8, "device": "cpu", **settings}))
    routes = PolicyRoutes({"tiny": service}, access, counters).routes()
    headers = {} if access.token is None else {"Authorization": f"Bearer {access.token}"}
    with running(build_app(routes, access, counters, lambda: service.is_loading)) as (address, server, _):
        limits = httpx.Limits(max_connections=100)
        with httpx.Client(base_url=address, headers=headers, timeout=60, limits=limits) as client:
            yield client, service, server
    service.close()


def complete(client, **keys):
    return client.post("/v1/completions", json={"prompt": PROMPT, "max_tokens": 12, "seed": 5, **keys})


def chat(client, **keys):
    messages = [{"role": "user", "content": PROMPT}]
    return client.post("/v1/chat/completions", json={"messages": messages, "max_tokens": 12, "seed": 5, **keys})


def events(response):
    lines = [line for line in response.text.split("\n") if line]
    assert lines[-1] == "data: [DONE]" and all(line.startswith("data: ") for line in lines)
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def refused(response, status, *said):
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert all(text in error["message"] for text in said), error["message"]
    return error
