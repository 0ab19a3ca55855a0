"""The routes of the chat page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

_FOLDER = Path(__file__).parent
_FILES = {
    "/": ("index.html", "text/html"),
    "/page/chat.css": ("chat.css", "text/css"),
    "/page/chat.js": ("chat.js", "text/javascript"),
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-cache",
}


def page_routes(models: Mapping[str, int], reward: str | None) -> list[Route]:
    """Return the routes of a page for ``models`` (name: positions), whose answers the model ``reward`` scores."""
    longest = min(models.values())

    async def info(request: Request) -> Response:
        return JSONResponse({"models": list(models), "longest": longest, "reward": reward})

    async def file(request: Request) -> Response:
        name, kind = _FILES[request.url.path]
        return Response((_FOLDER / name).read_bytes(), media_type=kind, headers=_HEADERS)

    return [Route("/page/info", info), *(Route(path, file) for path in _FILES)]
