"""What every request passes before it reaches a route: host, token, type and size of the body."""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from alignment.serve.answers import HttpError

OPEN_PATHS = frozenset({"/health", "/", "/page/chat.js", "/page/chat.css"})
"""Pages that need no token: they tell nothing of models."""
_LOCAL_HOST = re.compile(r"(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d*)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Who may ask."""

    token: str | None = None
    """Clients send it as a bearer token, or as the password in the address; None: none is needed."""
    only_local_names: bool = True
    """Refuse requests whose Host is not this machine, as those of a foreign page in a browser here."""
    max_body_bytes: int = 2**20
    """The longest body of a request."""


class RequestGuard:
    """An ASGI application that passes allowed requests on to ``app``, with a bounded body."""

    def __init__(self, app: Any, access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        try:
            self._check(scope["method"], scope["path"], headers)
        except HttpError as error:
            await error.response()(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _check(self, method: str, path: str, headers: Mapping[str, str]) -> None:
        access = self._access
        host = headers.get("host", "")
        if access.only_local_names and not _LOCAL_HOST.fullmatch(host):
            raise HttpError(403, f"Host {host!r:.80} is not this machine; a server for others needs --host and a token")
        is_open = method in ("GET", "HEAD") and path in OPEN_PATHS
        if access.token is not None and not is_open and not _knows(headers, access.token):
            raise HttpError(401, "a token is needed: Authorization: Bearer TOKEN", code="invalid_api_key")
        if method != "POST":
            return
        if not headers.get("content-type", "").lower().startswith("application/json"):
            raise HttpError(415, "send JSON, with Content-Type: application/json")
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > access.max_body_bytes:
            raise too_large(access.max_body_bytes)


def too_large(limit: int) -> HttpError:
    """Return the error for a body of more than ``limit`` bytes."""
    return HttpError(413, f"the request has more than {limit} bytes (--max_body_bytes)")


def _knows(headers: Mapping[str, str], token: str) -> bool:
    kind, _, value = headers.get("authorization", "").partition(" ")
    if kind.lower() == "basic":
        try:
            value = base64.b64decode(value, validate=True).decode("utf-8").partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return False
    elif kind.lower() != "bearer":
        return False
    return hmac.compare_digest(value.strip().encode(), token.encode())
