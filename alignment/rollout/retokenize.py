"""A rollout's rows as token ids of the reward model."""

from __future__ import annotations

from typing import Any

import numpy as np

from alignment.data.encode import Encoder
from alignment.errors import RewardError
from alignment.records import Rollout


class SameTokens:
    """Policy and reward model share one tokenizer: ids are passed on untouched."""

    def __call__(self, rollout: Rollout) -> list[np.ndarray]:
        """Return prompt and response ids of each row."""
        return [np.concatenate(pair) for pair in zip(rollout.prompts, rollout.responses, strict=True)]


class Retokenized:
    """The reward model has another tokenizer: its own template around the raw input, the answer decoded and re-encoded.

    A finished response ends with the reward tokenizer's EOS; one that was cut by length gets none, so the reward model
    sees that it is unfinished.
    """

    def __init__(self, policy_tokenizer: Any, encoder: Encoder, *, max_tokens: int | None = None) -> None:
        """``max_tokens``: what the reward model can read at most (None: not checked)."""
        self._policy_tokenizer = policy_tokenizer
        self._encoder = encoder
        self._max_tokens = max_tokens

    def __call__(self, rollout: Rollout) -> list[np.ndarray]:
        """Return the reward model's ids of each row."""
        return [
            self._encode(raw, response, stopped=reason == "stop")
            for raw, response, reason in zip(rollout.inputs, rollout.responses, rollout.finish_reasons, strict=True)
        ]

    def _encode(self, raw: Any, response: np.ndarray, *, stopped: bool) -> np.ndarray:
        text = self._policy_tokenizer.decode(response.tolist(), skip_special_tokens=True)
        prompt = self._encoder.encode_prompt(raw)
        answer = self._encoder.encode_answer(prompt, text).ids
        ids = prompt.ids + (answer if stopped else answer[:-1])
        if self._max_tokens is not None and len(ids) > self._max_tokens:
            raise RewardError(
                f"a response has {len(ids)} tokens with its prompt in the reward model's tokenizer, and that model "
                f"reads at most {self._max_tokens}: {prompt.text[-80:]!r}. Lower max_length"
            )
        return np.asarray(ids, np.int64)
