"""Servers in this process."""

from __future__ import annotations

import asyncio
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
