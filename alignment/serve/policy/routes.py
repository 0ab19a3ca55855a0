"""The routes of policies: ``/v1/models``, completions, chat, and loading new weights."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from alignment.errors import UserError
from alignment.registry import near_matches
from alignment.runs.stages.server_pool import OWNER
from alignment.serve.answers import HttpError
from alignment.serve.bodies import Body, read_body
from alignment.serve.counters import ServerCounters
from alignment.serve.guard import Access
from alignment.serve.policy.answers import Answering
from alignment.serve.policy.service import PolicyService
from alignment.serve.policy.wanted import Wanted, read_chat, read_completion

T = TypeVar("T")


class PolicyRoutes:
    """Answers with the policies ``services`` by name; without a name with the first."""

    def __init__(self, services: Mapping[str, PolicyService], access: Access, counters: ServerCounters) -> None:
        self.services, self._access, self._counters = services, access, counters
        for name, service in services.items():
            counters.watch("answers_running", lambda service=service: service.room.taken, model=name)
            counters.watch("weights_version", lambda service=service: service.version, model=name)

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route("/v1/models", self.models),
            Route("/v1/models/{name:path}", self.model),
            Route("/v1/completions", self.completions, methods=["POST"]),
            Route("/v1/chat/completions", self.chat, methods=["POST"]),
            Route("/reload", self.reload, methods=["POST"]),
        ]

    async def models(self, request: Request) -> Response:
        """List the models."""
        return JSONResponse({"object": "list", "data": [self._described(name) for name in self.services]})

    async def model(self, request: Request) -> Response:
        """Describe one model."""
        name, _ = self._find(request.path_params["name"])
        return JSONResponse(self._described(name))

    async def completions(self, request: Request) -> Response:
        """Continue prompts."""
        return await self._answer(request, read_completion, is_chat=False)

    async def chat(self, request: Request) -> Response:
        """Answer a conversation."""
        return await self._answer(request, read_chat, is_chat=True)

    async def reload(self, request: Request) -> Response:
        """Load other weights of the same shape when the running answers have ended; new requests wait meanwhile."""
        if self._access.token is None:
            raise HttpError(403, "loading weights needs a server that was started with --token_file")
        body = await self._body(request)
        name, service = self._find(body.get("model"))
        folder = body.get("folder")
        if folder is not None and not (isinstance(folder, str) and folder):
            raise HttpError(400, f"folder={folder!r:.80} (allowed: a folder, or null for the present one)")
        body.refuse_others()
        begun = time.monotonic()
        try:
            version = await service.reload(folder)
        except UserError as error:
            raise HttpError(409, f"the served weights have not changed: {error}") from None
        return JSONResponse({"model": name, "version": version, "seconds": round(time.monotonic() - begun, 3)})

    async def _answer(self, request: Request, read: Callable[..., Wanted], *, is_chat: bool) -> Response:
        body = await self._body(request)
        name, service = self._find(body.get("model"))
        wanted = read(body, service)
        answering = Answering(service, name, wanted, is_chat=is_chat)
        if not wanted.streams:
            content = await _unless_gone(request, answering.whole())
            self._count(wanted, answering)
            return Response(status_code=499) if content is None else JSONResponse(content)
        return StreamingResponse(self._counted(wanted, answering), media_type="text/event-stream")

    async def _counted(self, wanted: Wanted, answering: Answering) -> Any:
        events = answering.events()
        try:
            async for event in events:
                yield event
        finally:
            await events.aclose()
            self._count(wanted, answering)

    def _count(self, wanted: Wanted, answering: Answering) -> None:
        self._counters.add("prompt_tokens_total", sum(map(len, wanted.prompt_ids)))
        self._counters.add("generated_tokens_total", answering.num_generated)

    async def _body(self, request: Request) -> Body:
        seconds = next(iter(self.services.values())).settings.request_timeout
        return await read_body(request, max_bytes=self._access.max_body_bytes, seconds=seconds)

    def _find(self, name: Any) -> tuple[str, PolicyService]:
        if name is None:
            return next(iter(self.services.items()))
        if not isinstance(name, str) or name not in self.services:
            known = ", ".join(self.services)
            raise HttpError(
                404,
                f"no model {name!r:.80} here{near_matches(str(name), self.services)} (models: {known})",
                param="model",
                code="model_not_found",
            )
        return name, self.services[name]

    def _described(self, name: str) -> dict[str, Any]:
        service = self.services[name]
        return {
            "id": name,
            "object": "model",
            "created": service.created,
            "owned_by": OWNER,
            "max_model_len": service.longest,
            "system_fingerprint": service.weights,
            "tokenizer": service.voice.tokenizer.fingerprint(),
        }


async def _unless_gone(request: Request, work: Awaitable[T]) -> T | None:
    """Return the result of ``work``; None if the client leaves first, which cancels it."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_wait_until_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        return None
    finally:
        for one in (task, gone):
            one.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _wait_until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
