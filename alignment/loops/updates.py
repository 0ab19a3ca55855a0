"""Turn a rollout into updates of the policy and the critic."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from alignment.algorithms.adaptive_entropy import AdaptiveEntropy
from alignment.algorithms.on_policy.spec import CriticRole, OnPolicyAlgorithm
from alignment.metrics import Metric, average_metrics, merge_metrics
from alignment.models.decoder.forest import shareable, sharing_tokens
from alignment.parallel.micro_batches import Families, MicroBatches
from alignment.parallel.roles import EVERYONE, RoleRanks, RoleWork, share_work
from alignment.parallel.runner import Objective
from alignment.records import Experience, Loss, Rollout, TokenBatch
from alignment.rollout.experience import learning_fields, learning_mask
from alignment.rollout.minibatches import epoch_orders, gather_grids, split_rows, token_batch
from alignment.training.learner import Learner
from alignment.training.objectives import critic_objective, policy_objective, supervised_objective, values_objective
from alignment.training.weight_average import WeightAverage

KL_MARGIN = 1.5
"""As in Spinning Up, Stable-Baselines3 and TRL's first PPO."""


@dataclass(frozen=True, kw_only=True)
class UpdatePlan:
    """How a rollout's rows (responses) are divided into updates."""

    rows_per_update: int
    micro_batches: MicroBatches
    num_epochs: int
    """Passes over one rollout (``update_iters``)."""
    seed: int
    temperature: float
    ptx_coeff: float
    with_entropy: bool
    """Whether the policy loss needs the entropy with its gradient."""
    counts_shared_once: bool = False
    """Whether a token budget counts tokens that rows share once: every model that learns must share them."""
    frozen_updates: int = 0
    """Updates at the start of the run from which only the critic learns."""
    target_kl: float | None = None
    """KL (k3, nats per token) to the policy that sampled a rollout; above ``KL_MARGIN`` times this its other updates
    are skipped. None: no limit."""


class ValuePass(NamedTuple):
    """A critic's values and accumulated gradients, from one pass over a rollout."""

    values: np.ndarray
    """[N, R] float32, before the update."""
    metrics: list[dict[str, Metric]]
    """Of each micro-batch."""


@dataclass(frozen=True, kw_only=True)
class OnPolicyUpdater:
    """Turns an experience into optimizer updates of the policy and of the critics, if there are any."""

    policy: Learner
    critic: Learner | None
    algorithm: OnPolicyAlgorithm
    hyperparameters: Any
    plan: UpdatePlan
    next_ptx: Callable[[int], Sequence[TokenBatch]] | None
    """Returns supervised micro-batches with the given number of rows for the PTX loss; None: no such loss."""
    average: WeightAverage | None = None
    """Follows the policy's weights; None: they are not averaged."""
    cost_critic: Learner | None = None
    entropy: AdaptiveEntropy | None = None
    """Sets the coefficient of the entropy bonus; None: it stays."""
    ranks: Mapping[str, RoleRanks] = field(default_factory=dict)
    """The ranks of each role that has its own."""

    def learn_values(self, rollout: Rollout, rewards: np.ndarray) -> ValuePass:
        """Accumulate the critic's gradients, for the only update of ``rollout``, and return its values.

        It learns from the returns of these values and of ``rewards`` [N, R]. ``update`` applies the gradients.
        """
        mask, returns = self._mask(rollout), self.algorithm.returns
        assert self.critic is not None and returns is not None
        (rows,) = self._minibatches(rollout.num_rows)
        fields = {"response_mask": mask, "rewards": rewards, "estimate_mask": rollout.response_mask}
        groups, batches = self._divide(rollout, rows, fields)
        numbers = {"hyperparameters": self.hyperparameters}
        kept: list[np.ndarray] = []
        objective = values_objective(
            partial(self._value_loss, denominator=self.algorithm.count_units(mask, **numbers)),
            partial(returns, **numbers),
            lambda values: kept.append(values.numpy()),
        )
        metrics = self.critic.accumulate(batches, objective)
        found = gather_grids(self.critic.runner.share(kept), rollout.response_width)
        values = np.empty_like(found)
        values[np.concatenate(groups)] = found
        return ValuePass(values, metrics)

    def update(
        self, experience: Experience, *, limit: int, learned: ValuePass | None = None
    ) -> tuple[dict[str, Metric], int]:
        """Make at most ``limit`` updates; return (metrics averaged over them, their number).

        ``learned``: the critic's gradients are already accumulated (``learn_values``).
        """
        fields, rollout = self._fields(experience), experience.rollout
        reports: list[dict[str, Metric]] = []
        is_stopped = False
        for rows in self._minibatches(rollout.num_rows):
            if len(reports) == limit:
                break
            _, batches = self._divide(rollout, rows, fields)
            report = self._apply(batches, fields["response_mask"][rows], is_first=not reports, learned=learned)
            is_stopped = report is None
            if is_stopped:
                break
            if report:
                reports.append(report)
        stopped = {} if self.plan.target_kl is None else {"policy/stopped_by_kl": Metric(float(is_stopped))}
        return average_metrics(reports) | stopped, len(reports)

    def count_updates(self, num_rows: int) -> int:
        """Return the updates from a rollout of ``num_rows`` rows if none is skipped."""
        return -(-num_rows // self.plan.rows_per_update) * self.plan.num_epochs

    def _mask(self, rollout: Rollout) -> np.ndarray:
        return learning_mask(rollout, mask_truncated=self.hyperparameters.mask_truncated_completions)

    def _fields(self, experience: Experience) -> dict[str, np.ndarray]:
        return {"response_mask": self._mask(experience.rollout), **learning_fields(experience)}

    def _divide(
        self, rollout: Rollout, rows: np.ndarray, fields: Mapping[str, np.ndarray]
    ) -> tuple[list[np.ndarray], list[TokenBatch]]:
        """Return the micro-batches of an update from ``rows``: their rows, and the batches."""
        families = None
        if sharing_tokens():  # the rows of a prompt are neighbours in the rollout
            rows = np.sort(rows)
        sizes, prompts = rollout.prompt_lengths[rows] + rollout.response_lengths[rows], rollout.prompt_lengths[rows]
        if sharing_tokens():
            shared = shareable(prompts, sizes) * self.plan.counts_shared_once
            families = Families(rollout.group_ids[rows], shared)
        groups = [rows[group] for group in self.plan.micro_batches.divide(sizes, families)]
        return groups, [token_batch(rollout, group, fields) for group in groups]

    @property
    def num_updates(self) -> int:
        """Updates made so far: the critic's, which also learns while the policy is frozen."""
        return (self.policy if self.critic is None else self.critic).num_updates

    def _minibatches(self, num_rows: int) -> Iterator[np.ndarray]:
        seed = (self.plan.seed, self.num_updates)
        for order in epoch_orders(num_rows, num_epochs=self.plan.num_epochs, seed=seed):
            yield from split_rows(order, self.plan.rows_per_update)

    def _apply(
        self, batches: Sequence[TokenBatch], mask: np.ndarray, *, is_first: bool, learned: ValuePass | None
    ) -> dict[str, Metric] | None:
        """Make one update and return its metrics (none: it has no token); None: the policy has moved too far."""
        denominator = self.algorithm.count_units(mask, hyperparameters=self.hyperparameters)
        if denominator == 0:
            return {}
        is_frozen = self.num_updates < self.plan.frozen_updates
        policy = RoleWork(self._who("policy"), partial(self._update_policy, batches, denominator, is_first=is_first))
        critics = [self._critic_work(role, batches, denominator, learned) for role in self.algorithm.critics]
        works, early = [work for work in critics if work is not None], []
        if learned is not None:  # the critic's gradients go before the policy's come
            early, works = share_work(works), []
        if is_frozen:
            found = share_work(works)
        elif self.plan.target_kl is None:
            found = share_work([policy, *works])
        else:  # whether the critics learn depends on what the policy finds
            found = share_work([policy])
            found += [] if found[0] is None else share_work(works)
        if not is_frozen and found[0] is None:
            return None
        self._follow(batches, is_frozen=is_frozen)
        if not is_frozen:
            found.append(self._adapt_entropy(found[0]))
        return merge_metrics([part for metrics in [*found, *early] for part in metrics])

    def _follow(self, batches: Sequence[TokenBatch], *, is_frozen: bool) -> None:
        """Keep count of the updates that other ranks have made."""
        if not is_frozen and not self._who("policy").is_here:
            self.policy.follow()
            if self.next_ptx is not None:
                self.next_ptx(_count_rows(batches))
        for role in self.algorithm.critics:
            critic: Learner | None = getattr(self, role.name)
            if critic is not None and not self._who(role.name).is_here:
                critic.follow()

    def _who(self, role: str) -> RoleRanks:
        return self.ranks.get(role, EVERYONE)

    def _critic_work(
        self, role: CriticRole, batches: Sequence[TokenBatch], denominator: float, learned: ValuePass | None
    ) -> RoleWork | None:
        """Return the update of a critic, which returns its metrics; None if the run has no such critic."""
        critic: Learner | None = getattr(self, role.name)
        if critic is None:
            return None
        if learned is not None:
            return RoleWork(self._who(role.name), lambda: [*learned.metrics, critic.apply()])
        objective = critic_objective(partial(self._value_loss, denominator=denominator), role)
        return RoleWork(self._who(role.name), lambda: [*critic.accumulate(batches, objective), critic.apply()])

    def _update_policy(
        self, batches: Sequence[TokenBatch], denominator: float, *, is_first: bool
    ) -> list[dict[str, Metric]] | None:
        """Make one update of the policy and return its metrics; None: it has moved too far."""
        metrics = self.policy.accumulate(batches, self._policy_objective(denominator))
        if not is_first and self._is_far(metrics):
            self.policy.discard()
            return None
        return metrics + self._finish_policy(_count_rows(batches))

    def _finish_policy(self, num_rows: int) -> list[dict[str, Metric]]:
        """Add the supervised loss on ``num_rows`` rows, if there is one, and apply the policy's gradients."""
        metrics = []
        if self.next_ptx is not None:
            ptx = self.next_ptx(num_rows)
            objective = supervised_objective(ptx, coefficient=self.plan.ptx_coeff, name="ptx")
            metrics += self.policy.accumulate(ptx, objective)
        metrics.append(self.policy.apply())
        if self.average is not None:
            self.average.follow()
        return metrics

    def _adapt_entropy(self, metrics: Sequence[dict[str, Metric]]) -> list[dict[str, Metric]]:
        """Adapt the coefficient of the entropy bonus to an update's micro-batches; return the one that they had."""
        if self.entropy is None:
            return []
        applied = self.entropy.applied
        self.entropy.observe(float(merge_metrics(metrics)["policy/entropy"].value))
        return [{"policy/entropy_coeff": Metric(applied)}]

    def _is_far(self, metrics: Sequence[dict[str, Metric]]) -> bool:
        """Tell whether the KL of an update's micro-batches exceeds the target by more than the margin."""
        if self.plan.target_kl is None:
            return False
        return merge_metrics(metrics)["policy/approx_kl_k3"].value > KL_MARGIN * self.plan.target_kl

    def _policy_objective(self, denominator: float) -> Objective:
        numbers = self.hyperparameters
        if self.entropy is not None:
            numbers = replace(numbers, entropy_coeff=self.entropy.applied)
        options = {"hyperparameters": numbers, "denominator": denominator}
        loss = partial(self.algorithm.policy_loss, **options)
        return policy_objective(loss, temperature=self.plan.temperature, with_entropy=self.plan.with_entropy)

    def _value_loss(self, values: Any, fields: Mapping[str, Any], *, denominator: float) -> Loss:
        assert self.algorithm.value_loss is not None
        options = {"hyperparameters": self.hyperparameters, "denominator": denominator}
        return self.algorithm.value_loss(values, fields, **options)


def _count_rows(batches: Sequence[TokenBatch]) -> int:
    return sum(batch.num_rows for batch in batches)
