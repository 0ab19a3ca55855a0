"""Typed data passed between layers.

Shape legend: B prompts, G samples per prompt, N = B * G rows, P padded prompt, R padded response, S padded sequence,
T flat target tokens, V vocabulary. Index t of an [N, R] array refers to response token t; its log-prob and value are
read one position earlier. Only ``models/logprobs.py`` performs that shift.

Model inputs are right-padded (prompt and response contiguous, padding last), so causal attention needs no mask. Records
are numpy arrays in host memory; the runner moves micro-batches to the device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

import numpy as np

if TYPE_CHECKING:
    from paddle import Tensor

    from alignment.metrics import Metric


class RawSample(TypedDict, total=False):
    """One row of a raw dataset; every consumer names the fields it needs.

    Supervised: ``input`` and ``answer``, or ``dialogue``, or ``messages``. Preference: ``input, answer, other_answer,
    better`` (and ``margin``). Unpaired preference: ``input, answer, desirable``, or a pair. Safety preference: ``input,
    answer, other_answer, safer, is_safe, is_other_safe``. Prompt only: ``input`` or ``messages``. ``tools`` may
    accompany any of them.
    """

    input: str | list[str] | list[dict[str, Any]]
    """The user's text, alternating turns that begin and end with the user's, or messages (as in ``messages``) that end
    with a turn of the user or a tool."""
    answer: str
    """The assistant's answer."""
    other_answer: str
    """Another answer to the same input."""
    dialogue: list[str]
    """Alternating user and assistant turns (supervised only, instead of input and answer)."""
    messages: list[dict[str, Any]]
    """``{"role": system | user | assistant | tool, "content": text}``, instead of input and answer. Assistant turns are
    trained on unless their ``train`` is False; other keys (``tool_calls``, ``name``) are passed to the template."""
    tools: list[dict[str, Any]]
    """JSON schemas of the tools that the assistant may call, passed to the chat template."""
    better: bool
    """True: ``answer`` is better than ``other_answer``."""
    margin: float
    """By how much the better of the two is better."""
    attributes: list[float | None]
    """Values of the attributes of ``answer`` (or of the last turn), for regression; None: missing."""
    steps: list[str]
    """The answer in steps (process rewards only, instead of answer)."""
    step_labels: list[Any]
    """Whether each step is good: True or False, a number from 0 to 1, or one of the reward tokens."""
    safer: bool
    """True: ``answer`` is safer than ``other_answer``."""
    is_safe: bool
    """True: ``answer`` is safe."""
    is_other_safe: bool
    """True: ``other_answer`` is safe."""
    desirable: bool
    """False: ``answer`` is undesirable (binary feedback) and is not used as an example for supervised training."""


NO_EXPERT = {"uint8": 0xFF, "uint16": 0xFFFF}
"""In place of an expert that was not recorded, by dtype."""


def pad_right(rows: Sequence[np.ndarray], width: int, value: float) -> np.ndarray:
    """Return ``[n, width]`` with the 1-D ``rows`` padded on the right with ``value``, in the dtype of the rows."""
    dtype = rows[0].dtype if len(rows) else np.int64
    padded = np.full((len(rows), width), value, dtype)
    for target, row in zip(padded, rows, strict=True):
        target[: len(row)] = row
    return padded


def _lengths(rows: Sequence[np.ndarray]) -> np.ndarray:
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    lengths.flags.writeable = False
    return lengths


class Loss(NamedTuple):
    """The result of an objective: a scalar to differentiate, and metrics to report."""

    value: Tensor
    metrics: dict[str, Metric]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenBatch:
    """A micro-batch for a model: right-padded sequences and their target tokens.

    Example: prompt ``[5, 6]`` with response ``[7, 2]`` gives ``input_ids [[5, 6, 7, 2]]``, ``lengths [4]``,
    ``target_rows [0, 0]``, ``target_positions [2, 3]``; the response grid is ``[1, 2]``.
    """

    input_ids: np.ndarray
    """[n, S] int64, right-padded."""
    lengths: np.ndarray
    """[n] int64, number of real tokens in each row."""
    target_rows: np.ndarray
    """[T] int64, the row of each target token."""
    target_positions: np.ndarray
    """[T] int64, the position of each target token in its row (>= 1)."""
    target_columns: np.ndarray
    """[T] int64, the column of each target token in the [n, R] response grid."""
    response_width: int
    """R of the response grid."""
    fields: Mapping[str, np.ndarray]
    """Arrays for the objective with first axis n (for example ``advantages`` [n, R])."""
    routed_experts: np.ndarray | None = None
    """[n, S, layers, k] unsigned, the experts that a rollout gave each token to, for models that replay these; the
    largest value of the dtype (``NO_EXPERT``): not recorded. None: nothing is."""

    @classmethod
    def build(
        cls,
        sequences: Sequence[np.ndarray],
        target_positions: Sequence[np.ndarray],
        fields: Mapping[str, np.ndarray] | None = None,
        *,
        pad_token_id: int = 0,
    ) -> TokenBatch:
        """Right-pad ``sequences`` (n ragged id arrays); row i predicts the tokens at ``target_positions[i]`` (>= 1)."""
        lengths = np.array([len(s) for s in sequences], np.int64)
        counts = np.array([len(p) for p in target_positions], np.int64)
        assert all(len(p) == 0 or p[0] >= 1 for p in target_positions), (
            "position 0 has nothing before it to predict from"
        )
        return cls(
            input_ids=pad_right(sequences, int(lengths.max(initial=1)), pad_token_id),
            lengths=lengths,
            target_rows=np.repeat(np.arange(len(sequences), dtype=np.int64), counts),
            target_positions=np.concatenate([np.empty(0, np.int64), *target_positions]).astype(np.int64),
            target_columns=np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts),
            response_width=int(counts.max(initial=0)),
            fields=dict(fields or {}),
        )

    @property
    def num_rows(self) -> int:
        return int(self.input_ids.shape[0])

    @property
    def num_targets(self) -> int:
        return int(self.target_rows.shape[0])

    @property
    def target_ids(self) -> np.ndarray:
        """[T] int64, the target tokens."""
        return self.input_ids[self.target_rows, self.target_positions]

    @property
    def response_mask(self) -> np.ndarray:
        """[n, R] float32, 1 on real response tokens."""
        mask = np.zeros((self.num_rows, self.response_width), np.float32)
        mask[self.target_rows, self.target_columns] = 1.0
        return mask


@dataclass(frozen=True, slots=True)
class Completion:
    """A sampled answer to a prompt."""

    token_ids: np.ndarray
    """[r] int64; the last token is the stop token if one was sampled."""
    logprobs: np.ndarray
    """[r] float32, log-softmax(logits / temperature) of each sampled token, before any filter."""
    finish_reason: str
    """``stop`` (a stop token was sampled) or ``length``."""
    routed_experts: np.ndarray | None = None
    """[p + r, layers, k] unsigned, the experts that each token of prompt and answer was given to, where they were asked
    for; see ``TokenBatch.routed_experts``."""
    drafted: int | None = None
    """Number of drafted tokens that were computed for it (None: the engine drafts none)."""
    accepted: int | None = None
    """Number of those that were right; each saved the answer a pass."""


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """Prompts, sampled responses and everything measured on them; N rows, with samples of a prompt adjacent."""

    prompts: tuple[np.ndarray, ...]
    """N arrays of prompt token ids (ragged)."""
    responses: tuple[np.ndarray, ...]
    """N arrays of response token ids (ragged, at least one token each)."""
    finish_reasons: tuple[str, ...]
    group_ids: np.ndarray
    """[N] int64, equal for samples of one prompt."""
    inputs: tuple[Any, ...] = ()
    """The raw text, dialogue or messages of each row: ``raw_input`` of the prompt (N, or empty)."""
    labels: tuple[str | None, ...] = ()
    """Reference answers for reward functions and services (N, or empty)."""
    routed_experts: tuple[np.ndarray, ...] = ()
    """The experts that the rollout gave the tokens of each prompt and response to, [p + r, layers, k] each (N, or
    empty: not recorded); see ``TokenBatch.routed_experts``."""
    expert_mismatch: float | None = None
    """The share of these choices that the policy's own routers make otherwise (None: not measured)."""
    rollout_logprobs: np.ndarray | None = None
    """[N, R] float32, computed by the generation engine."""
    drafted: np.ndarray | None = None
    """[N] int64, drafted tokens that were computed for the response (None: the engine drafts none)."""
    accepted: np.ndarray | None = None
    """[N] int64, those of them that were right."""
    old_logprobs: np.ndarray | None = None
    """[N, R] float32, the denominator of the policy's ratio: the trainer's before the update (or the engine's, if
    ``rollout/gate.py`` decides so)."""
    checked_rows: np.ndarray | None = None
    """[N] bool, True for rows whose log-probs the trainer computed, and ``entropy`` with them (None: all rows)."""
    importance_weights: np.ndarray | None = None
    """[N, R] float32, factors of the policy loss, zero under the mask (None: all 1)."""
    ref_logprobs: np.ndarray | None = None
    """[N, R] float32, of the frozen reference."""
    entropy: np.ndarray | None = None
    """[N, R] float32, of the policy's distribution at each response token."""
    values: np.ndarray | None = None
    """[N, R] float32, critic values before the update."""
    raw_scores: np.ndarray | None = None
    """[N] float32, rewards as returned by the scorer."""
    source_scores: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Raw scores of each of several reward sources, [N] float32, NaN where it failed."""
    score_terms: Mapping[str, np.ndarray] = field(default_factory=dict)
    """What each term adds to the normalised scores, [N] float32, by name."""
    score_notes: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Numbers about the rewards of rows that are only logged, [N] float32 each."""
    scores: np.ndarray | None = None
    """[N] float32, rewards after normalisation and with the terms added, if any."""
    raw_costs: np.ndarray | None = None
    """[N] float32, costs as returned by the cost model."""
    costs: np.ndarray | None = None
    """[N] float32, costs after normalisation, if any."""
    cost_values: np.ndarray | None = None
    """[N, R] float32, values of the cost critic before the update."""
    baseline_scores: np.ndarray | None = None
    """[N] float32, the reward of the greedy response to the row's prompt, for algorithms that compare with it."""
    valid: np.ndarray | None = None
    """[N] bool, False if the reward failed and the group is masked (None: all valid)."""
    policy_version: int = 0

    @property
    def num_rows(self) -> int:
        return len(self.responses)

    @cached_property
    def prompt_lengths(self) -> np.ndarray:
        """[N] int64, read-only."""
        return _lengths(self.prompts)

    @cached_property
    def response_lengths(self) -> np.ndarray:
        """[N] int64, read-only."""
        return _lengths(self.responses)

    @property
    def response_width(self) -> int:
        return int(self.response_lengths.max(initial=0))

    @property
    def valid_rows(self) -> np.ndarray:
        """[N] bool, True if the row has a reward."""
        return np.ones(self.num_rows, bool) if self.valid is None else self.valid

    @property
    def response_mask(self) -> np.ndarray:
        """[N, R] float32, 1 on real response tokens of valid rows."""
        return (self.response_tokens & self.valid_rows[:, None]).astype(np.float32)

    @cached_property
    def response_tokens(self) -> np.ndarray:
        """[N, R] bool, True on the response tokens of all rows, valid or not; read-only."""
        tokens = np.arange(self.response_width)[None, :] < self.response_lengths[:, None]
        tokens.flags.writeable = False
        return tokens

    @cached_property
    def token_grid(self) -> np.ndarray:
        """[N, S] int64, each row's prompt and response, right-padded with 0; read-only."""
        rows = [np.concatenate(pair) for pair in zip(self.prompts, self.responses, strict=True)]
        grid = pad_right(rows, max(map(len, rows), default=0), 0)
        grid.flags.writeable = False
        return grid

    @property
    def checked_tokens(self) -> np.ndarray:
        """[N, R] bool, True on the response tokens of valid rows, or of ``checked_rows`` if there are any."""
        if self.checked_rows is None:
            return self.response_mask > 0
        return self.response_tokens & self.checked_rows[:, None]

    def with_fields(self, **fields: Any) -> Rollout:
        """Return a copy with the given fields set; what is known of prompts and responses stays known."""
        copy = replace(self, **fields)
        if copy.prompts is self.prompts and copy.responses is self.responses:
            copy.__dict__.update({name: value for name, value in self.__dict__.items() if name in _OF_TOKENS})
        return copy


_OF_TOKENS = ("prompt_lengths", "response_lengths", "response_tokens", "token_grid")
"""What a rollout keeps that depends on its prompts and responses alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Experience:
    """A judged rollout with the algorithm's results."""

    rollout: Rollout
    advantages: np.ndarray
    """[N, R] float32, zero under the mask."""
    returns: np.ndarray | None
    """[N, R] float32, zero under the mask (None without a critic)."""
    rewards: np.ndarray
    """[N, R] float32, score and KL penalty per token."""
    kl_rewards: np.ndarray | None = None
    """[N, R] float32, the KL penalty alone, before clipping (None: there is none)."""
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    """The algorithm's own metrics."""
    cost_returns: np.ndarray | None = None
    """[N, R] float32, zero under the mask (None without a cost critic)."""
