"""Measure a rollout before the update: rewards, log-probs and values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, Protocol

import numpy as np

from alignment.errors import NotFiniteError, RewardError
from alignment.models.decoder.replay import ExpertReplay
from alignment.parallel.roles import EVERYONE, RoleRanks, RoleWork, share_work
from alignment.parallel.runner import ModelRunner
from alignment.records import Rollout
from alignment.rollout.forward import measure_logprobs, measure_values
from alignment.rollout.logprob_check import LogprobCheck, OldLogprobs
from alignment.rollout.rewards.scorers import Scorer, Scores
from alignment.rollout.rewards.terms import ScoreTerms


class ReferenceLogprobs(Protocol):
    """Gives the log-probs of the frozen reference."""

    def __call__(self, rollout: Rollout, *, rows_per_batch: int, temperature: float) -> np.ndarray:
        """Return log-probs [N, R] of the response tokens, computed ``rows_per_batch`` rows at a time."""
        ...


@dataclass(frozen=True, kw_only=True)
class LoadedReference:
    """A reference that this run has loaded (see ``ReferenceLogprobs``)."""

    runner: ModelRunner

    def __call__(self, rollout: Rollout, *, rows_per_batch: int, temperature: float) -> np.ndarray:
        """See ``ReferenceLogprobs``."""
        return measure_logprobs(self.runner, rollout, rows_per_batch=rows_per_batch, temperature=temperature)[0]


@dataclass(frozen=True, kw_only=True)
class Judge:
    """Measures rollouts with the reward source, the policy before its update, the frozen reference and the critics.

    Log-probs of policy and reference are at the sampling ``temperature``: the trained distribution is the sampled one.
    """

    policy: ModelRunner
    reference: ReferenceLogprobs | None
    critic: ModelRunner | None
    scorer: Scorer
    normalize: Callable[[np.ndarray], np.ndarray] | None
    """Normalises raw rewards (``Scores.columns``), and may update its statistics with them; None: they stay raw."""
    logprob_rows: int
    """Rows per forward pass of policy and reference."""
    value_rows: int
    """Rows per forward pass of a critic."""
    cost: Scorer | None = None
    """The cost model; None: responses have no cost."""
    normalize_cost: Callable[[np.ndarray], np.ndarray] | None = None
    """Normalises raw costs [N]; None: they stay raw."""
    cost_critic: ModelRunner | None = None
    temperature: float
    terms: ScoreTerms | None = None
    """Terms added to the normalised rewards (None: there are none)."""
    check: LogprobCheck | None = None
    """Takes the old log-probs from the engine while it agrees with the policy; None: they are the policy's."""
    with_entropy: bool = True
    """Whether to compute the policy's entropy."""
    replay: ExpertReplay | None = None
    """What makes the policy replay the experts of rollouts; None: it chooses by itself."""
    ranks: Mapping[str, RoleRanks] = field(default_factory=dict)
    """The ranks of each role that has its own."""

    def measure(self, rollout: Rollout) -> Rollout:
        """Return ``rollout`` with scores, old and reference log-probs, values and, if requested, entropy.

        NotFiniteError names the model whose number for a response token is NaN or infinite.
        """
        works = {"scores": self.scorer.works(rollout), **{name: [work] for name, work in self._passes(rollout).items()}}
        if self.cost is not None:
            works["costs"] = self.cost.works(rollout)
        results = iter(share_work([work for some in works.values() for work in some]))
        found = {name: list(islice(results, len(some))) for name, some in works.items()}
        scores = self.scorer.read(found["scores"])
        total, terms = self._add_terms(rollout, self._normalized(scores))
        old, entropy, checked, expert_mismatch = found["policy"][0]
        _require_finite("policy", "log-probs", old, rollout)
        reference = values = None
        if self.reference is not None:
            reference = found["reference"][0]
            _require_finite("reference", "log-probs", reference, rollout, is_trained=False)
        if self.critic is not None:
            values = found["critic"][0]
            _require_finite("critic", "values", values, rollout)
        return rollout.with_fields(
            raw_scores=scores.values,
            scores=total,
            score_terms=terms,
            valid=scores.valid,
            source_scores=scores.by_source,
            score_notes=scores.notes,
            old_logprobs=old,
            checked_rows=checked,
            expert_mismatch=expert_mismatch,
            entropy=entropy,
            ref_logprobs=reference,
            values=values,
            **self._cost_fields(rollout, found),
        )

    def _passes(self, rollout: Rollout) -> dict[str, RoleWork]:
        """Return the forward passes of the policy, the reference and the critics, by role."""
        options = {"rows_per_batch": self.logprob_rows, "temperature": self.temperature}
        actions: dict[str, Callable[[], Any]] = {"policy": partial(self._old_logprobs, rollout, **options)}
        if self.reference is not None:
            actions["reference"] = partial(self.reference, rollout, **options)
        for role, critic in (("critic", self.critic), ("cost_critic", self.cost_critic)):
            if critic is not None:
                actions[role] = partial(measure_values, critic, rollout, rows_per_batch=self.value_rows)
        return {role: RoleWork(self.ranks.get(role, EVERYONE), action) for role, action in actions.items()}

    def _old_logprobs(self, rollout: Rollout, **options: Any) -> OldLogprobs:
        options |= {"with_entropy": self.with_entropy, "replays": self.replay is not None}
        if self.replay is not None:
            self.replay.clear()
        if self.check is not None:
            old = self.check.measure(self.policy, rollout, **options)
        else:
            old = OldLogprobs(*measure_logprobs(self.policy, rollout, **options))
        return old if self.replay is None else old._replace(expert_mismatch=self.replay.mismatch())

    def _add_terms(self, rollout: Rollout, scores: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return ``scores`` [N] with all terms added, and the terms."""
        terms = {} if self.terms is None else self.terms.measure(rollout, scores)
        return sum(terms.values(), start=scores), terms

    def _cost_fields(self, rollout: Rollout, found: Mapping[str, list[Any]]) -> dict[str, np.ndarray]:
        """Return the fields of the costs and of the cost critic; nothing without a cost model."""
        if self.cost is None:
            return {}
        raw = self.cost.read(found["costs"]).values
        fields = {"raw_costs": raw, "costs": raw if self.normalize_cost is None else self.normalize_cost(raw)}
        if self.cost_critic is not None:
            fields["cost_values"] = found["cost_critic"][0]
            _require_finite("cost critic", "values", fields["cost_values"], rollout)
        return fields

    def compare_with(self, rollout: Rollout, greedy: Rollout) -> Rollout:
        """Return ``rollout`` with the rewards of ``greedy``, one response to each of its prompts in order, as baseline.

        Terms are added to them as to the rewards of ``rollout``. Rows whose baseline has no reward are not valid;
        RewardError if none is left.
        """
        scores = self.scorer.score(greedy)
        total, _ = self._add_terms(greedy, self._normalized(scores))
        baseline = total[rollout.group_ids]
        if scores.valid is None:
            return rollout.with_fields(baseline_scores=baseline)
        valid = rollout.valid_rows & scores.valid[rollout.group_ids]
        if not valid.any():
            raise RewardError(
                "for every prompt of the rollout the rewards of its responses or that of its greedy response failed; "
                "nothing to learn from"
            )
        return rollout.with_fields(baseline_scores=baseline, valid=valid)

    def _normalized(self, scores: Scores) -> np.ndarray:
        """Return normalised rewards [N]; rows whose reward failed do not affect the statistics."""
        if self.normalize is None:
            return scores.values
        if scores.valid is None:
            return self.normalize(scores.columns)
        values = np.zeros_like(scores.values)
        values[scores.valid] = self.normalize(scores.columns[scores.valid])
        return values


def _require_finite(model: str, what: str, grid: np.ndarray, rollout: Rollout, *, is_trained: bool = True) -> None:
    """Raise NotFiniteError if numbers [N, R] of ``model`` are not finite where the response mask is set."""
    is_token = rollout.response_mask > 0
    bad = int((~np.isfinite(grid[is_token])).sum())
    if bad:
        found = f"its {what} are NaN or infinite for {bad} of {int(is_token.sum())} response tokens"
        raise NotFiniteError(found, model, is_trained=is_trained)
