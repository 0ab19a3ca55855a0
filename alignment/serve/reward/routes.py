"""The routes of a reward model: every form of request at each address that its clients use."""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from alignment.serve.answers import HttpError
from alignment.serve.bodies import read_body
from alignment.serve.guard import Access
from alignment.serve.reward.forms import read_scores
from alignment.serve.reward.service import RewardService
from alignment.telemetry import log

PATHS = ("/", "/reward", "/get_reward")


class RewardRoutes:
    """Answers with the scores of ``service``."""

    def __init__(self, service: RewardService, access: Access) -> None:
        self.service, self._access = service, access

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [Route(path, self.score, methods=["POST"]) for path in PATHS]

    async def score(self, request: Request) -> Response:
        """Score answers."""
        seconds = self.service.settings.request_timeout
        body = await read_body(request, max_bytes=self._access.max_body_bytes, seconds=seconds)
        asked = read_scores(body)
        future = self.service.submit(asked.rows)
        try:
            scores = await asyncio.wait_for(asyncio.wrap_future(future), seconds)
        except asyncio.TimeoutError:
            raise HttpError(504, f"no scores within {seconds:g} s (--request_timeout)") from None
        except Exception as error:
            log.warn(f"a request failed: {type(error).__name__}: {error}")
            raise HttpError(500, f"the reward model failed: {type(error).__name__}: {error}") from None
        finally:
            self.service.leave(len(asked.rows))
        return JSONResponse(asked.tell(scores))
