"""What servers of other suites call the options of a request, where they are known not to follow OpenAI's interface."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from alignment.errors import UserError

_STEPS = ["penalties", "temperature", "top_k", "top_p"]
"""In the order of the engines here; llama.cpp divides by the temperature last if it is not told so."""


def in_dialect(body: dict[str, Any], owner: str | None) -> dict[str, Any]:
    """Return the request ``body`` for a server whose models are of ``owner``; UserError for what it cannot do."""
    write = _DIALECTS.get(owner)
    return write(dict(body)) if write else body


def _llama_cpp(given: dict[str, Any]) -> dict[str, Any]:
    """llama.cpp's server has filters of its own (the 40 likeliest tokens, min_p) unless it is told to have none."""
    if least := given.pop("min_tokens", 0):
        raise UserError(f"min_dec_len={least}: llama.cpp's server knows no such bound; leave it out")
    penalty = given.pop("repetition_penalty", 1.0)
    if penalty != 1.0:
        given |= {"repeat_penalty": penalty, "repeat_last_n": -1}
    return {**given, "top_k": given.get("top_k", 0), "samplers": _STEPS}


def _llama_cpp_python(given: dict[str, Any]) -> dict[str, Any]:
    """The server of llama-cpp-python has those filters, a penalty for repetition and an order of its own."""
    penalty, top_p = given.pop("repetition_penalty", 1.0), given.get("top_p", 1.0)
    if penalty != 1.0:
        raise UserError(f"repetition_penalty={penalty}: llama-cpp-python's server looks at the last 64 tokens only")
    if top_p < 1 and given.get("temperature", 1.0) not in (0, 1):
        raise UserError(
            f"temperature={given['temperature']} with top_p={top_p}: llama-cpp-python's server divides by the "
            "temperature last; give one of them"
        )
    return {**given, "top_k": given.get("top_k", 0), "top_p": top_p, "min_p": 0.0, "repeat_penalty": 1.0}


_DIALECTS: dict[str | None, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "llamacpp": _llama_cpp,
    "me": _llama_cpp_python,
}
"""``owned_by`` of a server's models to how it is asked."""
