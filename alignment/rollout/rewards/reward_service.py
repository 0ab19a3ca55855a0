"""Get rewards from an HTTP service."""

from __future__ import annotations

from typing import Any

from alignment.errors import PassingRewardError, RewardError
from alignment.rollout.json_service import MAX_ANSWER_BYTES, JsonService, ServiceError, ServiceKeys
from alignment.rollout.rewards.text_batch import TextBatch

_KEYS = ServiceKeys("reward_server", "reward_timeout")


class HttpReward:
    """Posts JSON lists ``{"src", "tgt", "response"}`` and reads ``{"score": [...]}``, as the reference suite does.

    Raises PassingRewardError if a retry may help, otherwise RewardError (see ``JsonService``).
    """

    def __init__(self, url: str, *, timeout_seconds: float, max_bytes: int = MAX_ANSWER_BYTES) -> None:
        self.service = JsonService(url, _KEYS, timeout_seconds=timeout_seconds, max_bytes=max_bytes)

    def __call__(self, batch: TextBatch) -> Any:
        """Return the ``score`` value of the service's answer."""
        try:
            body = {"src": batch.inputs, "tgt": batch.labels, "response": batch.responses}
            return self.service.ask(body, wanted=("score",))["score"]
        except ServiceError as error:
            raise (PassingRewardError if error.may_pass else RewardError)(str(error)) from error
