"""Score responses with a language model that compares two of them, in both orders.

Legend: K responses to a prompt: K (K - 1) comparisons, each a row of the model, fewer where responses are equal.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import partial
from itertools import permutations
from typing import Any, NamedTuple

import numpy as np
import paddle

from alignment.algorithms.letter_preference import log_sigmoid, preference_logits, win_rates
from alignment.data.comparison import PairQuestion
from alignment.data.encode import Encoder
from alignment.data.raw.conversation import conversation, shown_text
from alignment.errors import NotFiniteError, TooLongError
from alignment.models.decoder.logprobs import alternative_logprobs
from alignment.parallel.roles import EVERYONE, RoleRanks, RoleWork
from alignment.parallel.runner import ModelRunner
from alignment.records import Rollout, TokenBatch
from alignment.rollout.minibatches import split_rows
from alignment.rollout.rewards.scorers import Scorer, Scores
from alignment.rollout.rewards.unknown_text import UnknownText
from alignment.telemetry import log

LEAST_MASS = 0.5
"""Mean probability of both letters below which the model does not seem to answer the question."""


class Asked(NamedTuple):
    """A comparison of two texts that answer ``given``."""

    given: Any
    first: str
    second: str


class PairwiseReader:
    """Turns comparisons to token ids of the model that compares, whatever tokenizer the policy has."""

    def __init__(
        self,
        question: PairQuestion,
        policy_tokenizer: Any,
        tokenizer: Any,
        encoder: Encoder,
        *,
        max_tokens: int,
        name: str = "pairwise reward model",
    ) -> None:
        """``tokenizer`` and ``encoder`` are those of the model that compares, which reads at most ``max_tokens``;
        messages call it ``name``.
        """
        self.question = question
        self._policy_tokenizer = policy_tokenizer
        self._encoder = encoder
        self._max_tokens = max_tokens
        self._letters = question.letter_ids(tokenizer)
        self._unknown = UnknownText(encoder.unknown_id, name)

    def texts(self, rollout: Rollout) -> list[str]:
        """Return the responses as text."""
        decode = self._policy_tokenizer.decode
        return [decode(np.asarray(ids).tolist(), skip_special_tokens=True) for ids in rollout.responses]

    def batch(self, comparisons: Sequence[Asked]) -> TokenBatch:
        """Return a row for each comparison; its target is the first letter, and ``others`` is the second one."""
        rows = [np.array([*self._encode(asked), self._letters[0]], np.int64) for asked in comparisons]
        self._unknown.look(rows, lambda row: f"{shown_text(comparisons[row].given)} {comparisons[row].first}")
        others = np.full(len(rows), self._letters[1], np.int64)
        return TokenBatch.build(rows, [np.array([len(ids) - 1]) for ids in rows], {"others": others})

    def _encode(self, asked: Asked) -> list[int]:
        ids = self.question.encode(self._encoder, asked.given, asked.first, asked.second)
        if len(ids) >= self._max_tokens:
            raise TooLongError(
                f"a comparison of two responses has {len(ids) + 1} tokens, and the pairwise reward model reads at most "
                f"{self._max_tokens}: {asked.first[-80:]!r}. Lower max_length or max_dec_len"
            )
        return ids


class PairwiseScorer(Scorer):
    """Gives each response its mean probability of being better than another response to its prompt."""

    def __init__(
        self, runner: ModelRunner, reader: PairwiseReader, *, rows_per_batch: int, who: RoleRanks = EVERYONE
    ) -> None:
        """``who`` are the ranks that have the model."""
        self.reader = reader
        self.who = who
        self._runner = runner
        self._rows_per_batch = rows_per_batch
        self._warned = False

    def works(self, rollout: Rollout) -> list[RoleWork]:
        """See ``Scorer``; the rewards of each prompt are 0.5 on average. Equal responses win half the time."""
        return [RoleWork(self.who, partial(self._score, rollout))]

    def _score(self, rollout: Rollout) -> Scores:
        texts = self.reader.texts(rollout)
        groups = [np.flatnonzero(rollout.group_ids == group) for group in dict.fromkeys(rollout.group_ids.tolist())]
        pairs = [pair for group in groups for pair in permutations(group.tolist(), 2)]
        found = iter(self.compare([Asked(rollout.inputs[i], texts[i], texts[j]) for i, j in pairs]))
        values = np.zeros(rollout.num_rows, np.float32)
        for group in groups:
            ahead = np.zeros((len(group),) * 2)
            for first, second in permutations(range(len(group)), 2):
                ahead[first, second] = next(found)
            values[group] = win_rates(ahead)
        return Scores(values, None)

    def compare(self, comparisons: Sequence[Asked]) -> np.ndarray:
        """Return the log-prob of the first letter minus that of the second, [n]: 0 where both texts are equal.

        The model reads equal comparisons once, and no ties. NotFiniteError if a number is NaN or infinite.
        """
        keys = [(conversation(asked.given).key(), asked.first, asked.second) for asked in comparisons]
        rows = {key: asked for key, asked in zip(keys, comparisons, strict=True) if asked.first != asked.second}
        found = dict(zip(rows, self._read_odds([*rows.values()]), strict=True)) if rows else {}
        return np.array([found.get(key, 0.0) for key in keys])

    def _read_odds(self, comparisons: Sequence[Asked]) -> np.ndarray:
        parts = split_rows(np.arange(len(comparisons)), self._rows_per_batch)
        batches = [self.reader.batch([comparisons[i] for i in rows]) for rows in parts]
        logprobs = np.concatenate(self._runner.forward(batches, _read)).astype(np.float64)
        bad = int((~np.isfinite(logprobs)).any(-1).sum())
        if bad:
            found = f"{bad} of {len(logprobs)} comparisons are NaN or infinite"
            raise NotFiniteError(found, "pairwise reward model", is_trained=False)
        self._warn_of_silence(float(np.exp(logprobs).sum(-1).mean()))
        return logprobs[:, 0] - logprobs[:, 1]

    def _warn_of_silence(self, mass: float) -> None:
        if mass < LEAST_MASS and not self._warned:
            self._warned = True
            log.warn(
                f"the pairwise reward model gives both letters together a probability of {mass:.3f}: it does not seem "
                "to answer the question. Is it such a model, and are its template and letters right?"
            )


class StartScorer(Scorer):
    """Gives each response its probability of being better than the response that the run began with.

    The mean win rate within a group is always 0.5, so held-out prompts, with one response each, need another opponent.
    """

    def __init__(self, scorer: PairwiseScorer) -> None:
        self._scorer = scorer
        self._prompts, self._start = "", []

    def works(self, rollout: Rollout) -> list[RoleWork]:
        """See ``Scorer``; the first call, and one with other prompts, sets the opponents: all get 0.5."""
        texts = self._scorer.reader.texts(rollout)
        prompts = hashlib.sha256("\n".join(conversation(raw).key() for raw in rollout.inputs).encode()).hexdigest()
        if prompts != self._prompts:
            self._prompts, self._start = prompts, texts
            log.info("answers to held-out prompts are compared with those of this evaluation from now on")
        rows = [*zip(rollout.inputs, texts, self._start, strict=True)]
        both = [Asked(raw, new, old) for raw, new, old in rows] + [Asked(raw, old, new) for raw, new, old in rows]
        return [RoleWork(self._scorer.who, partial(self._score, both))]

    def _score(self, both: Sequence[Asked]) -> Scores:
        ahead, behind = self._scorer.compare(both).reshape(2, -1)
        return Scores(np.exp(log_sigmoid(preference_logits(ahead, behind))).astype(np.float32), None)

    def state(self) -> list[Any]:
        """Return the opponents as JSON data."""
        return [self._prompts, list(self._start)]

    def load_state(self, state: list[Any]) -> None:
        """Restore what ``state`` returned."""
        self._prompts, self._start = str(state[0]), [*map(str, state[1])]


def _read(model: Any, batch: TokenBatch) -> paddle.Tensor:
    return alternative_logprobs(model, batch, batch.fields["others"])
