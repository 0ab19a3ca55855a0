"""The parts that all servers share: errors, health and metrics pages, listening, and a clean end."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NamedTuple

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from alignment.errors import ArgumentError, UserError, why_unreadable
from alignment.serve.answers import HttpError
from alignment.serve.counters import ServerCounters
from alignment.serve.guard import Access, RequestGuard

_SHORTEST_TOKEN = 8
_BACKLOG = 2048
_TOLD = "alignment.told"
"""Key of a request's scope: its failure has been answered and printed."""


class Address(NamedTuple):
    """Where a server listens."""

    host: str
    port: int
    """0: a free one."""


def read_access(host: str, token_file: str | None, max_body_bytes: int) -> Access:
    """Return who may ask; ArgumentError if others than this machine could without a token."""
    token = None
    if token_file is not None:
        try:
            token = Path(token_file).expanduser().read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ArgumentError(f"--token_file {token_file}: {why_unreadable(error)}") from error
        if len(token) < _SHORTEST_TOKEN or len(token.split()) != 1:
            raise ArgumentError(
                f"--token_file {token_file}: the token must be one word of {_SHORTEST_TOKEN} or more characters"
            )
    local = _is_local(host)
    if token is None and not local:
        raise ArgumentError(
            f"--host {host} can be reached by other machines, so a token is needed: write one to a file and give "
            "--token_file (allowed without one: 127.0.0.1, localhost, ::1)"
        )
    return Access(token=token, only_local_names=local and token is None, max_body_bytes=max_body_bytes)


def _is_local(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_never() -> bool:
    return False


def build_app(
    routes: Sequence[BaseRoute], access: Access, counters: ServerCounters, is_loading: Callable[[], bool] = _is_never
) -> Any:
    """Return the ASGI application of ``routes`` with health and metrics pages.

    ``is_loading`` tells whether answers wait for other weights; the server is healthy all the same.
    """

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "loading" if is_loading() else "ok"})

    async def metrics(request: Request) -> Response:
        return PlainTextResponse(counters.page(), media_type="text/plain; version=0.0.4")

    app = Starlette(
        routes=[Route("/health", health), Route("/metrics", metrics), *routes],
        exception_handlers={HttpError: _tell, HTTPException: _tell_route, Exception: _tell_fault},
    )
    return _Counted(RequestGuard(app, access), counters, {route.path for route in routes if isinstance(route, Route)})


class _Counted:
    """Counts requests to known paths by status, and their time."""

    def __init__(self, app: Any, counters: ServerCounters, paths: set[str]) -> None:
        self._app, self._counters, self._paths = app, counters, paths

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, status = time.monotonic(), 500
        path = scope["path"] if scope["path"] in self._paths else "other"

        async def note(message: Any) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self._app(scope, receive, note)
        except Exception:
            if not scope.get(_TOLD):  # the answer has begun: only the end of the connection tells that it failed
                raise
        finally:
            self._counters.add("requests_total", path=path, status=str(status))
            self._counters.add("request_seconds_total", time.monotonic() - begun, path=path)


async def _tell(request: Request, error: Exception) -> Response:
    assert isinstance(error, HttpError)
    return error.response()


async def _tell_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return HttpError(error.status_code, f"{request.method} {request.url.path}: {error.detail.lower()}").response()


async def _tell_fault(request: Request, error: Exception) -> Response:
    traceback.print_exception(error)
    request.scope[_TOLD] = True
    return HttpError(500, f"the server failed: {type(error).__name__}; its log says more").response()


class Server(uvicorn.Server):
    """Ends on SIGTERM or Ctrl-C when running requests have ended; new ones are refused meanwhile."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take the signals with the loop, and do not raise them again at the end."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(ValueError, RuntimeError):
                loop.add_signal_handler(number, self.handle_exit, number, None)
        yield


def bind(address: Address) -> socket.socket:
    """Return a socket that nobody else can listen at, before models are loaded; UserError if the port is taken."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind(address)
    except OSError as error:
        found.close()
        raise UserError(f"--host {address.host} --port {address.port}: {why_unreadable(error)}") from error
    return found


def start_listening(bound: socket.socket) -> None:
    """Take connections; UserError if another server that was loading meanwhile has the port."""
    try:
        bound.listen(_BACKLOG)
    except OSError as error:
        host, port = bound.getsockname()[:2]
        bound.close()
        raise UserError(f"--host {host} --port {port}: {why_unreadable(error)}") from error


def listen(address: Address) -> socket.socket:
    """Return a listening socket; UserError if the port is taken."""
    found = bind(address)
    start_listening(found)
    return found


def serve(app: Any, bound: socket.socket, *, shutdown_timeout: float, close: Callable[[], None]) -> None:
    """Serve ``app`` at a socket of ``bind`` until SIGTERM or Ctrl-C, then give running requests ``shutdown_timeout``
    seconds; ``close``.
    """
    start_listening(bound)
    server = make_server(app, shutdown_timeout=shutdown_timeout)
    host, port = bound.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    print(f"listening on http://{shown}:{port}", file=sys.stderr, flush=True)
    try:
        asyncio.run(server.serve(sockets=[bound]))
    finally:
        close()


def make_server(app: Any, *, shutdown_timeout: float) -> Server:
    """Return a server of ``app``."""
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        lifespan="off",
        server_header=False,
        timeout_graceful_shutdown=int(shutdown_timeout),
        timeout_keep_alive=30,
    )
    return Server(config)
