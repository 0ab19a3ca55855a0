"""The routes of a reference: what it is, and the log-probs of answers."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from alignment.rollout.reference_service import PATH
from alignment.serve.answers import HttpError
from alignment.serve.bodies import Body, is_ids, read_body, wrong
from alignment.serve.guard import Access
from alignment.serve.reference.service import GivenAnswers, ReferenceService
from alignment.serve.room import result_of


class ReferenceRoutes:
    """Answers with the log-probs of ``service``."""

    def __init__(self, service: ReferenceService, access: Access) -> None:
        self.service, self._access = service, access

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [Route(PATH, self.describe, methods=["GET"]), Route(PATH, self.measure, methods=["POST"])]

    async def describe(self, request: Request) -> Response:
        """Tell which model this is."""
        return JSONResponse(self.service.identity._asdict())

    async def measure(self, request: Request) -> Response:
        """Tell the log-probs of answers."""
        seconds = self.service.settings.request_timeout
        asked = read_answers(await read_body(request, max_bytes=self._access.max_body_bytes, seconds=seconds))
        future = self.service.submit(asked)
        try:
            found = await result_of(future, what="log-probs", whose="reference", seconds=seconds)
        finally:
            self.service.room.leave(len(asked.prompts))
        return JSONResponse({"logprobs": found, "weights": self.service.identity.weights})


def read_answers(body: Body) -> GivenAnswers:
    """Return the answers that are asked about: a list of token ids for each prompt and response."""
    prompts, responses = _lists_of_ids(body, "prompts"), _lists_of_ids(body, "responses")
    temperature = body.number("temperature", 1.0, low=0)
    body.refuse_others()
    if temperature == 0:
        raise wrong("temperature", 0, "above 0")
    if len(prompts) != len(responses):
        raise HttpError(400, f"{len(prompts)} prompts for {len(responses)} responses; each needs one", param="prompts")
    return GivenAnswers(prompts, responses, temperature)


def _lists_of_ids(body: Body, key: str) -> list[list[int]]:
    value: Any = body.get(key)
    if not isinstance(value, list) or not value or not all(is_ids(one) for one in value):
        raise wrong(key, value, "a list of lists of token ids")
    return value
