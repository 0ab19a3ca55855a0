"""What servers of other suites call the options of a request, where they are known not to follow OpenAI's interface."""

from __future__ import annotations

from typing import Any

from alignment.errors import UserError

LLAMA_CPP = "llamacpp"
"""``owned_by`` of the models of llama.cpp's server."""
_STEPS = ["penalties", "temperature", "top_k", "top_p"]
"""In the order of the engines here; llama.cpp divides by the temperature last if it is not told so."""


def in_dialect(body: dict[str, Any], owner: str | None) -> dict[str, Any]:
    """Return the request ``body`` for a server whose models are of ``owner``; UserError for what it cannot do.

    llama.cpp's server has filters of its own (the 40 likeliest tokens, min_p) unless it is told to have none.
    """
    if owner != LLAMA_CPP:
        return body
    given = dict(body)
    if least := given.pop("min_tokens", 0):
        raise UserError(f"min_dec_len={least}: llama.cpp's server knows no such bound; leave it out")
    penalty = given.pop("repetition_penalty", 1.0)
    if penalty != 1.0:
        given |= {"repeat_penalty": penalty, "repeat_last_n": -1}
    return {**given, "top_k": given.get("top_k", 0), "samplers": _STEPS}
