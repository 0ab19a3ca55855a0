"""Draw a token for every row from its logits, on the host.

The steps are in the order of Hugging Face: repetition penalty, forbidden tokens, temperature, top-k, top-p, draw.
B rows, vocabulary size V.
"""

from __future__ import annotations

import numpy as np

from alignment.errors import NotFiniteError
from alignment.generation.engine import GenerationOptions

_BLOCK = 256
HOST_COPIES = 6
"""Arrays of the size of the logits that a step works in, for the planner."""
DEVICE_COPIES = 10
"""The same of ``device_sampling`` on a GPU, in units of the float32 logits."""


class Restrictions:
    """Applies penalties and masks to the logits of the token ids in ``vocabulary`` (all of them or a part)."""

    def __init__(
        self, options: GenerationOptions, prompts: list[np.ndarray], *, vocabulary: range, usable_vocab_size: int | None
    ) -> None:
        """See ``Sampler``."""
        self._options = options
        self._first, self._size = vocabulary.start, len(vocabulary)
        size = self._size
        self._usable = size if usable_vocab_size is None else min(max(usable_vocab_size - self._first, 0), size)
        self._stops = [token - self._first for token in options.stop_token_ids if token in vocabulary]
        self.seen = np.zeros((len(prompts), size), bool) if options.repetition_penalty != 1.0 else None
        """[B, V] bool, True for tokens that occurred; None if there is no penalty."""
        for row, prompt in enumerate(prompts):
            self.add(np.full(len(prompt), row), prompt)

    def keep(self, rows: np.ndarray) -> None:
        """Drop all other rows."""
        self.seen = None if self.seen is None else self.seen[rows]

    def add(self, rows: np.ndarray, tokens: np.ndarray) -> None:
        """Record that ``tokens`` occurred in ``rows``."""
        if self.seen is not None:
            local = tokens - self._first
            known = (local >= 0) & (local < self.seen.shape[1])
            self.seen[rows[known], local[known]] = True

    def forbidden(self, too_early: bool) -> np.ndarray | None:
        """Return [V] bool, True for forbidden tokens (stop tokens only if ``too_early``); None if there are none."""
        mask = np.zeros(self._size, bool)
        mask[self._usable :] = True
        mask[self._stops if too_early else []] = True
        return mask if mask.any() else None

    def apply(self, logits: np.ndarray, step: int) -> np.ndarray | None:
        """Return the logits [B, V] of new token ``step`` after penalty and masks, None if they do not change."""
        too_early = bool(self._stops) and step < self._options.min_new_tokens
        if self.seen is None and not too_early and self._usable >= logits.shape[1]:
            return None
        penalty = self._options.repetition_penalty
        allowed = logits.copy() if self.seen is None else penalise(logits, self.seen, penalty)
        if too_early:
            allowed[:, self._stops] = -np.inf
        allowed[:, self._usable :] = -np.inf
        return allowed


class Sampler:
    """Draws tokens for B rows, and tracks the history of rows for the repetition penalty."""

    def __init__(
        self,
        options: GenerationOptions,
        prompts: list[np.ndarray],
        uniforms: np.ndarray,
        *,
        vocab_size: int,
        usable_vocab_size: int | None = None,
    ) -> None:
        """``uniforms`` [B, max_new_tokens] are in [0, 1); ids from ``usable_vocab_size`` on are never drawn."""
        self._options = options
        self._uniforms = uniforms
        self._restrictions = Restrictions(
            options, prompts, vocabulary=range(vocab_size), usable_vocab_size=usable_vocab_size
        )

    def keep(self, rows: np.ndarray) -> None:
        """Drop all other rows."""
        self._uniforms = self._uniforms[rows]
        self._restrictions.keep(rows)

    def draw(self, logits: np.ndarray, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Return (tokens [B] int64, log-probs [B] float32) for logits [B, V] of new token number ``step``.

        Log-probs are those of softmax(logits / temperature) before penalty, masks and filters.
        """
        check_logits(logits, step)
        options = self._options
        scaled = logits if options.temperature == 1.0 else logits / np.float32(options.temperature)
        weights, log_total = exponentiate(scaled)
        allowed = self._restrictions.apply(logits, step)
        if not options.do_sample:
            tokens = (scaled if allowed is None else allowed).argmax(axis=-1)
        else:
            if allowed is not None:
                weights, _ = exponentiate(allowed / np.float32(options.temperature))
            tokens = pick(keep_likeliest(weights, options.top_k, options.top_p), self._uniforms[:, step])
        rows = np.arange(len(tokens))
        self._restrictions.add(rows, tokens)
        return tokens, (scaled[rows, tokens] - log_total).astype(np.float32)


def check_logits(logits: np.ndarray, step: int) -> None:
    """Raise NotFiniteError if a row of logits [B, V] has NaN or no finite maximum."""
    check_largest(logits.max(axis=-1), step)


def check_largest(largest: np.ndarray, step: int) -> None:
    """Raise NotFiniteError if the largest logit of a row [B] is not finite."""
    bad = np.flatnonzero(~np.isfinite(largest))
    if len(bad):
        raise NotFiniteError(
            f"the model's logits for new token {step} are NaN or infinite in {len(bad)} of {len(largest)} sequences"
        )


def penalise(logits: np.ndarray, seen: np.ndarray, penalty: float) -> np.ndarray:
    """Return logits [B, V] with the penalty of Keskar et al. (2019, section 4.1) for ``seen`` tokens [B, V] bool."""
    factor = np.float32(penalty)
    return np.where(seen, np.where(logits < 0, logits * factor, logits / factor), logits)


def exponentiate(scaled: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (exp(scaled - max) [B, V] float32, log sum exp(scaled) [B] float64)."""
    top = scaled.max(axis=-1, keepdims=True)
    weights = np.exp(scaled - top)
    return weights, top[:, 0].astype(np.float64) + np.log(weights.sum(axis=-1, dtype=np.float64))


def keep_likeliest(weights: np.ndarray, top_k: int, top_p: float) -> np.ndarray:
    """Return weights [B, V] with all but the top-k and then the top-p (Holtzman et al. 2020) tokens set to zero.

    Top-p keeps the fewest likeliest tokens that reach the share ``top_p``, at least one. Ties with the last kept token
    are kept too.
    """
    if 0 < top_k < weights.shape[1]:
        bound = np.partition(weights, -top_k, axis=-1)[:, -top_k, None]
        weights = np.where(weights >= bound, weights, np.float32(0))
    if top_p < 1.0:
        ascending = np.sort(weights, axis=-1)
        shares = np.cumsum(ascending, axis=-1, dtype=np.float64)
        dropped = (shares <= (1.0 - top_p) * shares[:, -1:])[:, :-1].sum(axis=-1)
        bound = np.take_along_axis(ascending, dropped[:, None], axis=-1)
        weights = np.where(weights >= bound, weights, np.float32(0))
    return weights


def pick(weights: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
    """Return the first token [B] whose cumulative weight exceeds uniform * total; weights [B, V], uniforms [B].

    Sums are over blocks first: one pass over the weights, then a search within one block.
    """
    rows, vocab = np.arange(weights.shape[0]), weights.shape[1]
    starts = np.arange(0, vocab, _BLOCK)
    totals = np.cumsum(np.add.reduceat(weights, starts, axis=1, dtype=np.float64), axis=1)
    goal = uniforms * totals[:, -1]
    # Rounding can make the goal equal the total; then take the last block with any weight.
    last = (totals < totals[:, -1:]).sum(axis=1)
    block = np.minimum((totals <= goal[:, None]).sum(axis=1), last)
    goal = goal - np.where(block > 0, totals[rows, block - 1], 0.0)
    columns = starts[block][:, None] + np.arange(_BLOCK)
    inside = np.where(columns < vocab, weights[rows[:, None], np.minimum(columns, vocab - 1)], np.float32(0))
    reached = (np.cumsum(inside, axis=1, dtype=np.float64) > goal[:, None]) & (inside > 0)
    final = _BLOCK - 1 - (inside > 0)[:, ::-1].argmax(axis=1)
    return columns[rows, np.where(reached.any(axis=1), reached.argmax(axis=1), final)]
