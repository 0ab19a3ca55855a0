"""Convert the rows of a rollout to token ids of the reward model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from alignment.data.encode import Encoder
from alignment.data.raw.conversation import shown_text
from alignment.errors import TooLongError
from alignment.records import Rollout
from alignment.rollout.rewards.unknown_text import UnknownText


class SameTokens:
    """For a reward model that shares the policy's tokenizer: ids are passed on unchanged, except for the last.

    A policy may end sequences with any of ``ends``, but the reward model was trained on rows that end with ``end``: at
    the end of a response the others are replaced by it.
    """

    def __init__(self, ends: Iterable[int] = (), end: int | None = None) -> None:
        self._others = frozenset(ends) - {end}
        self._end = end

    def __call__(self, rollout: Rollout) -> list[np.ndarray]:
        """Return prompt and response ids of each row."""
        return [self._join(*pair) for pair in zip(rollout.prompts, rollout.responses, strict=True)]

    def starts(self, rollout: Rollout) -> list[int]:
        """Return the position of the first token of each answer."""
        return [len(prompt) for prompt in rollout.prompts]

    def _join(self, prompt: np.ndarray, response: np.ndarray) -> np.ndarray:
        joined = np.concatenate([prompt, response])
        if len(response) and int(response[-1]) in self._others:
            joined[-1] = self._end
        return joined


class BeforePadding:
    """Drops the padding tokens at the end of rows, as transformers does to find a row's score.

    A reward model trained elsewhere with its end token as padding gives its score before that token.
    """

    def __init__(self, sequences: SameTokens | Retokenized, pad_token_id: int) -> None:
        self._sequences = sequences
        self._padding = pad_token_id

    def __call__(self, rollout: Rollout) -> list[np.ndarray]:
        """Return the ids of each row up to its last token that is not padding; a row of only padding is unchanged."""
        return [self._cut(row) for row in self._sequences(rollout)]

    def starts(self, rollout: Rollout) -> list[int]:
        """Return the position of the first token of each answer (a row may end before it)."""
        return self._sequences.starts(rollout)

    def _cut(self, row: np.ndarray) -> np.ndarray:
        real = np.flatnonzero(row != self._padding)
        return row[: real[-1] + 1] if len(real) else row


class Retokenized:
    """For a reward model with another tokenizer: encodes the raw input with its template, and the decoded answer.

    A finished response ends with the reward tokenizer's EOS; one cut off by its length gets none, so the reward model
    sees that it is unfinished.
    """

    def __init__(
        self, policy_tokenizer: Any, encoder: Encoder, *, max_tokens: int | None = None, name: str = "reward model"
    ) -> None:
        """``max_tokens`` is the longest row that the reward model can read (None: not checked); messages call it
        ``name``.
        """
        self._policy_tokenizer = policy_tokenizer
        self._encoder = encoder
        self._max_tokens = max_tokens
        self._unknown = UnknownText(encoder.unknown_id, name)

    def __call__(self, rollout: Rollout) -> list[np.ndarray]:
        """Return the reward model's ids for each row."""
        rows = [
            self._encode(raw, response, stopped=reason == "stop")
            for raw, response, reason in zip(rollout.inputs, rollout.responses, rollout.finish_reasons, strict=True)
        ]
        self._unknown.look(rows, lambda row: f"{shown_text(rollout.inputs[row])} {self._text(rollout.responses[row])}")
        return rows

    def starts(self, rollout: Rollout) -> list[int]:
        """Return the position of the first token of each answer."""
        return [len(self._encoder.encode_prompt(raw).ids) for raw in rollout.inputs]

    def _text(self, response: np.ndarray) -> str:
        return self._policy_tokenizer.decode(response.tolist(), skip_special_tokens=True)

    def _encode(self, raw: Any, response: np.ndarray, *, stopped: bool) -> np.ndarray:
        prompt = self._encoder.encode_prompt(raw)
        answer = self._encoder.encode_answer(prompt, self._text(response)).ids
        ids = prompt.ids + (answer if stopped else answer[:-1])
        if self._max_tokens is not None and len(ids) > self._max_tokens:
            raise TooLongError(
                f"a response has {len(ids)} tokens with its prompt in the reward model's tokenizer, and that model "
                f"reads at most {self._max_tokens}: {prompt.text[-80:]!r}. Lower max_length"
            )
        return np.asarray(ids, np.int64)
