"""A rollout's rows as token ids of the reward model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from alignment.records import Rollout

EncodeAnswer = Callable[[Any, str], np.ndarray]
"""(raw input, answer text) to ids in the reward model's own template and tokenizer, without a closing EOS."""


class SameTokens:
    """Policy and reward model share one tokenizer: ids are passed on untouched."""

    def __call__(self, rollout: Rollout) -> list[np.ndarray]:
        """Return prompt and response ids of each row."""
        return [np.concatenate(pair) for pair in zip(rollout.prompts, rollout.responses)]


class Retokenized:
    """The reward model has another tokenizer: its own template around the raw input, the answer decoded and re-encoded.

    A finished response ends with the reward tokenizer's EOS; one that was cut by length gets none, so the reward model
    sees that it is unfinished.
    """

    def __init__(self, policy_tokenizer: Any, encode_answer: EncodeAnswer, *, end_token_id: int) -> None:
        self._policy_tokenizer = policy_tokenizer
        self._encode_answer = encode_answer
        self._end = end_token_id

    def __call__(self, rollout: Rollout) -> list[np.ndarray]:
        """Return the reward model's ids of each row."""
        return [
            self._encode(raw, response, stopped=reason == "stop")
            for raw, response, reason in zip(rollout.inputs, rollout.responses, rollout.finish_reasons)
        ]

    def _encode(self, raw: Any, response: np.ndarray, *, stopped: bool) -> np.ndarray:
        answer = self._policy_tokenizer.decode(response.tolist(), skip_special_tokens=True)
        ids = np.asarray(self._encode_answer(raw, answer), np.int64)
        return np.append(ids, self._end) if stopped and (not len(ids) or ids[-1] != self._end) else ids
