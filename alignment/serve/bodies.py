"""Read the JSON object of a request: every key is known, in range, and named when it is not."""

from __future__ import annotations

import asyncio
import json
import math
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from starlette.requests import Request

from alignment.registry import near_matches
from alignment.serve.answers import HttpError
from alignment.serve.guard import too_large


async def read_body(request: Request, *, max_bytes: int, seconds: float) -> Body:
    """Return the JSON object in the body of ``request``, which may have ``max_bytes`` and take ``seconds``."""

    async def read() -> bytes:
        content = b""
        async for piece in request.stream():
            content += piece
            if len(content) > max_bytes:
                raise too_large(max_bytes)
        return content

    try:
        return Body(_parsed(await asyncio.wait_for(read(), seconds)))
    except asyncio.TimeoutError:
        raise HttpError(408, f"the request did not arrive within {seconds:g} s") from None
    except (ValueError, RecursionError) as error:
        raise HttpError(400, f"the request is not JSON: {str(error):.200}") from None


def _parsed(content: bytes) -> Any:
    """Return the JSON in ``content``; ValueError for other bytes than UTF-8, and for halves of characters."""
    found = json.loads(content.decode("utf-8-sig"))
    if b"\\u" in content:
        json.dumps(found, ensure_ascii=False).encode()  # no tokenizer takes half of a surrogate pair
    return found


class Body:
    """The object of a request; null counts as missing, and ``refuse_others`` names keys that nothing has read."""

    def __init__(self, content: Any) -> None:
        if not isinstance(content, Mapping):
            raise HttpError(400, f"the request must be a JSON object, got {content!r:.80}")
        self._content = {key: value for key, value in content.items() if value is not None}
        self._read: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of ``key`` as it is."""
        self._read.add(key)
        return self._content.get(key, default)

    def has(self, key: str) -> bool:
        """Tell whether ``key`` is given."""
        return key in self._content

    def flag(self, key: str, default: bool = False) -> bool:
        """Return true or false."""
        value = self.get(key, default)
        if not isinstance(value, bool):
            raise wrong(key, value, "true or false")
        return value

    def integer(self, key: str, default: Any, *, low: int, high: int | None = None) -> Any:
        """Return a whole number from ``low`` to ``high``."""
        value = self.get(key, default)
        if key not in self._content:
            return value
        is_integer = isinstance(value, int) and not isinstance(value, bool)
        if not is_integer or value < low or (high is not None and value > high):
            raise wrong(key, value, f"a whole number, {low} or more" if high is None else f"{low} to {high}")
        return value

    def number(self, key: str, default: float, *, low: float, high: float = math.inf) -> float:
        """Return a finite number from ``low`` to ``high``."""
        value = self.get(key, default)
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        # Whole numbers are compared first: those beyond all floats cannot be tested for being finite.
        if not is_number or not low <= value <= min(high, sys.float_info.max):
            raise wrong(key, value, f"{low:g} or more" if high == math.inf else f"{low:g} to {high:g}")
        return float(value)

    def texts(self, key: str) -> list[str]:
        """Return a list of texts; one text counts as a list, and none as an empty one."""
        value = self.get(key, [])
        found = [value] if isinstance(value, str) else value
        if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
            raise wrong(key, value, "a text or a list of texts")
        return found

    def integers(self, key: str) -> list[int]:
        """Return a list of whole numbers, 0 or more; without the key an empty one."""
        value = self.get(key, [])
        if not is_ids(value):
            raise wrong(key, value, "a list of token ids")
        return value

    def neutral(self, allowed: Mapping[str, Iterable[Any]]) -> None:
        """Refuse each key that has another value than those of ``allowed``, which change nothing."""
        for key, values in allowed.items():
            value = self.get(key)
            if value is not None and value not in values:
                shown = ", ".join(json.dumps(one) for one in values) or "null"
                raise wrong(key, value, f"{shown}; nothing else is supported here")

    def refuse_others(self) -> None:
        """Refuse keys that nothing has read."""
        for key in self._content:
            if key not in self._read:
                raise HttpError(400, f"unknown key {key!r}{near_matches(key, self._read)}", param=key)


def wrong(key: str, value: Any, allowed: str) -> HttpError:
    """Return the error for a value that is not allowed."""
    return HttpError(400, f"{key}={json.dumps(value):.80} (allowed: {allowed})", param=key)


def is_ids(value: Any) -> bool:
    """Tell whether ``value`` is a list of whole numbers from 0 on."""
    return isinstance(value, list) and all(
        isinstance(number, int) and not isinstance(number, bool) and number >= 0 for number in value
    )
