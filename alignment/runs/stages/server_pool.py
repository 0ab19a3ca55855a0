"""Send requests to several servers: the least busy gets the next, and one that fails is avoided for a while."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import httpx

from alignment.errors import UserError
from alignment.runs.stages.server_dialects import in_dialect
from alignment.telemetry import log

T = TypeVar("T")
OWNER = "alignment"
"""``owned_by`` of the models of ``alignment serve``."""
_QUOTED = 200
_AVOIDED_SECONDS = 5.0
_PAUSE_SECONDS = 1.0
_PASSING = (408, 425, 429)


class ServedModel(NamedTuple):
    """A model that a server lists."""

    name: str
    owner: str | None
    """Whose server it is, as it says."""
    weights: str | None = None
    """What tells its weights from others; of this suite's servers."""
    tokenizer: str | None = None
    """Fingerprint of its tokenizer; of this suite's servers."""

    @property
    def is_ours(self) -> bool:
        """Whether the server is this suite's."""
        return self.owner == OWNER


class _Failed(Exception):
    """A request that another server, or the same one later, may answer."""


class _Server:
    def __init__(self, address: str) -> None:
        self.address = address
        self.model = ServedModel("", None)
        self.busy = 0
        self.avoided_until = 0.0
        self.failures = 0


class ServerPool:
    """Asks the servers at ``addresses``; called by several threads."""

    def __init__(
        self, addresses: Sequence[str], *, token: str | None, timeout: float, retries: int, width: int
    ) -> None:
        """``width``: requests that each server gets at once."""
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        limits = httpx.Limits(max_connections=width * len(addresses) + 1)
        self._client = httpx.Client(headers=headers, timeout=timeout, limits=limits, follow_redirects=False)
        self._timeout, self._retries = timeout, retries
        self._servers = [_Server(address) for address in addresses]
        self._lock = threading.Lock()

    def find_models(self, wanted: str | None) -> list[ServedModel]:
        """Ask each server for its models and return the one it answers with; UserError if none can be used.

        ``wanted`` is the model's name; None: the first of each server. Servers that cannot be reached are tried again
        later.
        """
        failures = []
        for server in self._servers:
            try:
                server.model = self._send(server, "GET", "/v1/models", None, lambda found: _choose(found, wanted))
            except _Failed as error:
                failures.append(str(error))
                self._note(server, error)
        if len(failures) == len(self._servers):
            raise UserError("no server can be used:\n  " + "\n  ".join(failures))
        found = [server.model for server in self._servers if server.model.name]
        for server in self._servers:
            server.model = server.model if server.model.name else found[0]
        return found

    def complete(self, body: dict[str, Any], read: Callable[[Any], T]) -> T:
        """Return what ``read`` makes of the answer to a completion request; it raises ValueError for nonsense.

        UserError if a server refuses the request, or after the last try.
        """
        for attempt in range(self._retries + 1):
            server = self._take()
            try:
                content = {**in_dialect(body, server.model.owner), "model": server.model.name}
                found = self._send(server, "POST", "/v1/completions", content, read)
                server.failures = 0
                return found
            except _Failed as error:
                self._note(server, error)
                last = error
            finally:
                with self._lock:
                    server.busy -= 1
            if attempt < self._retries:
                time.sleep(_PAUSE_SECONDS * attempt)
        raise UserError(
            f"{last}; {self._retries + 1} tries (server_retries). What is done is kept, the same command continues"
        )

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    def _take(self) -> _Server:
        """Return the least busy server, those that failed lately last."""
        with self._lock:
            now = time.monotonic()
            server = min(self._servers, key=lambda one: (one.avoided_until > now, one.busy))
            server.busy += 1
            return server

    def _note(self, server: _Server, error: _Failed) -> None:
        server.avoided_until = time.monotonic() + _AVOIDED_SECONDS
        server.failures += 1
        if server.failures == 1:
            log.warn(f"{error}; other servers are asked, this one again later")

    def _send(self, server: _Server, method: str, path: str, body: Any, read: Callable[[Any], T]) -> T:
        place = f"{server.address}{path}"
        try:
            answer = self._client.request(method, place, json=body)
        except httpx.InvalidURL as error:
            raise UserError(f"servers: {server.address} is not an address: {error}") from error
        except httpx.TimeoutException as error:
            raise _Failed(f"{place}: no answer within {self._timeout:g} s (server_timeout)") from error
        except httpx.TransportError as error:
            raise _Failed(f"{place}: {type(error).__name__}: {error}") from error
        if answer.status_code >= 500 or answer.status_code in _PASSING:
            raise _Failed(f"{place} answered with status {answer.status_code}: {_quote(answer.text)}")
        if answer.status_code != 200:
            raise UserError(f"{place} refused the request with status {answer.status_code}: {_quote(answer.text)}")
        try:
            return read(answer.json())
        except UserError:  # a ValueError, too
            raise
        except (ValueError, RecursionError) as error:
            said = str(error) if isinstance(error, Nonsense) else "no JSON"
            raise _Failed(f"{place} answered nonsense ({said}): {_quote(answer.text)}") from error


class Nonsense(ValueError):
    """An answer that is not what was asked for."""


def _choose(found: Any, wanted: str | None) -> ServedModel:
    listed = found.get("data") if isinstance(found, dict) else None
    if not isinstance(listed, list) or not listed or not all(map(_is_model, listed)):
        raise Nonsense("no list of models")
    names = [one["id"] for one in listed]
    if wanted is not None and wanted not in names:
        raise Nonsense(f"no model {wanted}")
    one = listed[0 if wanted is None else names.index(wanted)]
    owner = one.get("owned_by")
    if owner != OWNER:
        return ServedModel(one["id"], owner)
    return ServedModel(one["id"], owner, one.get("system_fingerprint"), one.get("tokenizer"))


def _is_model(listed: Any) -> bool:
    return isinstance(listed, dict) and isinstance(listed.get("id"), str) and listed["id"] != ""


def _quote(text: str) -> str:
    return repr(text[:_QUOTED]) + (" ..." if len(text) > _QUOTED else "")
