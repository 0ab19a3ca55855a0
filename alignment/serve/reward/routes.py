"""The routes of a reward model: every form of request at each address that its clients use."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from alignment.serve.bodies import read_body
from alignment.serve.guard import Access
from alignment.serve.reward.forms import read_scores
from alignment.serve.reward.service import RewardService
from alignment.serve.room import result_of

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
            scores = await result_of(future, what="scores", whose="reward model", seconds=seconds)
        finally:
            self.service.room.leave(len(asked.rows))
        return JSONResponse(asked.tell(scores))
