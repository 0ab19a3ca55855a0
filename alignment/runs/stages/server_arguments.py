"""Arguments of answers that servers give instead of a model in this process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from alignment.errors import ArgumentError
from alignment.fields import Case, argument

_NO_SERVERS = Case(lambda value, s: not s.values.get("servers"), "servers is not given: a model answers here")


def _of_servers(default: Any, **constraint: Any) -> Any:
    return argument(default, inert_when=_NO_SERVERS, **constraint)


@dataclass(frozen=True, kw_only=True)
class ServerArguments:
    """Servers that answer, in OpenAI's form; their number and order do not change what is written."""

    servers: tuple[str | int, ...] = argument((), separator=r"[\s,]+", aliases=("ports",))
    """Ports of this machine, or addresses such as http://host:8000, of OpenAI-compatible servers of the model
    (alignment serve, or another's), among which the prompts are shared; model_name_or_path then gives only tokenizer
    and template. Empty: the model answers in this process."""
    server_model: str | None = _of_servers(None)
    """Name of the model in requests; null: the first that each server lists."""
    server_token_file: str | None = _of_servers(None, path="file")
    """File with the token that the servers ask for."""
    server_prompts: Literal["ids", "text"] = _of_servers("ids")
    """What is sent: token ids, or for servers that take none the rendered text, which they tokenise."""
    server_timeout: float = _of_servers(600.0, above=0)
    """Seconds in which a server must have answered a request."""
    server_retries: int = _of_servers(3, minimum=0)
    """How often a request is tried again, with another server if there is one, before the run stops."""

    @property
    def addresses(self) -> list[str]:
        """The address of each server, without /v1; ArgumentError for what is none, or is given twice."""
        found = []
        for word in map(str, self.servers):
            if word.isdigit() and 0 < int(word) < 2**16:
                found.append(f"http://127.0.0.1:{int(word)}")
            elif word.startswith(("http://", "https://")):
                found.append(word.rstrip("/").removesuffix("/v1"))
            else:
                raise ArgumentError(f"servers: {word!r} (allowed: ports, and addresses such as http://host:8000)")
        if len(set(found)) < len(found):
            raise ArgumentError(f"servers: an address is given twice in {' '.join(found)}")
        return found
