"""The on-policy loop: prompts, rollout, scores, updates, new weights for the engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from alignment.algorithms.kl import adapt_kl_coeff
from alignment.algorithms.lagrange import LagrangeMultiplier
from alignment.algorithms.on_policy.spec import OnPolicyAlgorithm
from alignment.loops.evaluation import sample_rows
from alignment.loops.rollout_ahead import RolloutAhead, Sample, Sampled
from alignment.loops.rollout_engine import RolloutEngine
from alignment.loops.session import Session
from alignment.loops.updates import OnPolicyUpdater, ValuePass
from alignment.metrics import Metric
from alignment.records import Experience, Rollout
from alignment.rollout.collector import Collector
from alignment.rollout.dynamic_sampling import DynamicSampling
from alignment.rollout.experience import estimate_experience, estimate_rewards
from alignment.rollout.gate import LogprobGate
from alignment.rollout.judge import Judge
from alignment.rollout.metrics import describe_experience
from alignment.telemetry.report.run_files import TRAINING

TRAINING_SAMPLES = 8
"""Rows of an iteration that are recorded if there is no evaluation."""
_AHEAD = "in the rollout ahead of the next updates"


@dataclass(kw_only=True)
class KLController:
    """The KL coefficient of the reward; with a ``target`` it adapts as in Ziegler et al. (2019), equation 4."""

    coefficient: float
    target: float | None
    horizon: float
    loss_scale: float = 1.0
    """Factor of the KL coefficient of the loss."""

    def observe(self, kl: float, *, num_rows: int) -> None:
        """Adapt to the mean KL of a rollout of ``num_rows`` responses, if there is a target."""
        if self.target is not None:
            self.coefficient = adapt_kl_coeff(
                self.coefficient, kl, target=self.target, horizon=self.horizon, num_rows=num_rows
            )


@dataclass(frozen=True, kw_only=True)
class OnPolicyLoop:
    """All parts of a run; ``run`` reads top to bottom."""

    prompts: Iterator[tuple[list[dict[str, Any]], bool]]
    """(prompt samples, whether they end an epoch)."""
    collector: Collector
    judge: Judge
    gate: LogprobGate
    algorithm: OnPolicyAlgorithm
    hyperparameters: Any
    kl: KLController
    updater: OnPolicyUpdater
    engine: RolloutEngine
    session: Session
    dynamic: DynamicSampling | None = None
    """Replaces prompts from which nothing is learned; None: every rollout is learned from as it is."""
    observe: Callable[[Experience], None] | None = None
    """Called with every experience before its updates."""
    decode: Callable[[np.ndarray], str] | None = None
    """Token ids to text, for samples."""
    records_samples: bool = True
    """Whether samples of training are recorded, for runs without evaluation (if there is ``decode``)."""
    ahead: RolloutAhead = field(default_factory=RolloutAhead)
    values_from_update: bool = False
    """Whether the critic's values are those of the pass in which it learns, not the judge's."""
    multiplier: LagrangeMultiplier | None = None
    """Weighs the cost; None: there is none."""

    def run(self) -> None:
        """Train until the session's last update."""
        session = self.session
        while not session.is_finished:
            version = session.counters.updates
            with session.explaining(f"in the rollout for update {version + 1}"):
                sampled = self.ahead.take() or self._sample_next()
                if sampled is None:
                    break
                rollout, sampling, epoch_ended = self._judge(sampled)
                with session.stage("score"):
                    rollout, gap_metrics = self.gate.check(rollout, staleness=self._staleness(rollout))
                    gap_metrics |= self._weigh_cost(rollout)
                experience, learned = self._estimate(rollout)
            if self.observe is not None:
                self.observe(experience)
            with self._sampling_ahead(rollout), session.stage("update"):
                limit = session.total_updates - version
                metrics, updates = self._updater.update(experience, limit=limit, learned=learned)
            self._count_tokens(experience, updates)
            described = describe_experience(experience) | {"train/kl_coeff": Metric(self.kl.coefficient)}
            self._adapt(described, experience)
            described |= self._watch(described | sampling, rollout, step=version + updates)
            kept = partial(self._training_samples, rollout)
            metrics = described | sampling | gap_metrics | metrics
            session.advance(metrics, updates=updates, epoch_ended=epoch_ended, samples=kept)

    @property
    def _updater(self) -> OnPolicyUpdater:
        """The updater with the KL coefficient of the loss as it is now."""
        numbers = self.hyperparameters
        if self.kl.loss_scale == 1 or not numbers.kl_loss_weight:
            return self.updater
        scaled = replace(numbers, kl_loss_coeff=self.kl.loss_scale * numbers.kl_loss_coeff)
        return replace(self.updater, hyperparameters=scaled)

    def _watch(self, metrics: dict[str, Metric], rollout: Rollout, *, step: int) -> dict[str, Metric]:
        """Look for reward hacking; return the metrics of that."""
        alarm = self.session.alarm
        if alarm is None:
            return {}
        alarm.observe(metrics, step=step, samples=lambda: sample_rows(rollout, self.decode))
        return alarm.metrics()

    def _sample_next(self) -> Sampled | None:
        """Return responses of the policy as it is now to the next prompts; None if there are no more."""
        prompts, epoch_ended = next(self.prompts, (None, False))
        if prompts is None:
            return None
        version = self.session.counters.updates
        with self.session.stage("rollout"), self.engine.ready(version):
            return self._collect(prompts, epoch_ended, version)

    def _collect(self, prompts: list[dict[str, Any]], epoch_ended: bool, version: int) -> Sampled:
        rollout, greedy = self.collector.collect(prompts, policy_version=version), None
        if self.algorithm.needs_greedy:
            greedy = self.collector.collect_greedy(prompts, policy_version=version)
        sampled = Sampled(rollout, greedy, epoch_ended)
        self.session.timer.count("rollout", tokens=sum(int(part.response_lengths.sum()) for part in sampled.rollouts))
        return sampled

    def _collect_beside(self, *arguments: Any) -> Sampled:
        """Collect in a thread: its time is that of the stage, and waiting for it is no stage."""
        with self.session.timer.stage("rollout"):
            return self._collect(*arguments)

    @contextmanager
    def _sampling_ahead(self, rollout: Rollout) -> Iterator[None]:
        """Sample the rollout after ``rollout``, if there is one, with the weights before the updates in the body."""
        session, made = self.session, self.session.counters.updates
        is_last = made + self.updater.count_updates(rollout.num_rows) >= session.total_updates
        if is_last or not self.ahead.is_on:
            yield
        elif self.ahead.overlaps:
            with session.stage("rollout"), self.engine.ready(made):
                prompts, epoch_ended = next(self.prompts)
            with self.ahead.beside(partial(self._collect_beside, prompts, epoch_ended, made), wait=self._wait):
                yield
        else:
            with session.explaining(_AHEAD):
                self.ahead.in_hand = self._sample_next()
            yield

    def _wait(self, result: Sample) -> Sampled:
        with self.session.explaining(_AHEAD):
            return result()

    def _staleness(self, rollout: Rollout) -> int:
        """Return the number of updates of the policy since the weights that sampled ``rollout``."""
        frozen = self.updater.plan.frozen_updates
        return max(self.session.counters.updates, frozen) - max(rollout.policy_version, frozen)

    def _judge(self, sampled: Sampled) -> tuple[Rollout, dict[str, Metric], bool]:
        """Return a judged rollout, metrics of how it was sampled, and whether its prompts end an epoch."""
        rollout, epoch_ended = self._measure(sampled), sampled.epoch_ended
        if self.dynamic is None:
            return rollout, {}, epoch_ended
        self.dynamic.start(len(np.unique(rollout.group_ids)))
        while not self.dynamic.add(rollout):
            sampled = self._sample_next()
            rollout, epoch_ended = self._measure(sampled), epoch_ended or sampled.epoch_ended
        return *self.dynamic.finish(), epoch_ended

    def _measure(self, sampled: Sampled) -> Rollout:
        self.session.timer.count("score", tokens=sum(map(count_tokens, sampled.rollouts)))
        with self.session.stage("score"):
            judged = self.judge.measure(sampled.rollout)
            return judged if sampled.greedy is None else self.judge.compare_with(judged, sampled.greedy)

    def _weigh_cost(self, rollout: Rollout) -> dict[str, Metric]:
        """Move the multiplier by the costs of ``rollout``, before these are weighed with it; return its metrics."""
        if self.multiplier is None:
            return {}
        costs = rollout.costs[rollout.valid_rows].tolist()
        return self.multiplier.observe(costs, num_updates=self.session.counters.updates)

    def _estimate(self, rollout: Rollout) -> tuple[Experience, ValuePass | None]:
        """Return the experience, and the critic's pass over it if that already learns."""
        if not self.values_from_update:
            return self._estimate_from(rollout), None
        rewards = estimate_rewards(rollout, self.algorithm, self.hyperparameters, kl_coeff=self.kl.coefficient)
        with self.session.stage("update"):
            learned = self.updater.learn_values(rollout, rewards)
        return self._estimate_from(rollout.with_fields(values=learned.values), rewards), learned

    def _estimate_from(self, rollout: Rollout, rewards: np.ndarray | None = None) -> Experience:
        multiplier = self.multiplier and self.multiplier.value
        options = {"kl_coeff": self.kl.coefficient, "multiplier": multiplier, "rewards": rewards}
        return estimate_experience(rollout, self.algorithm, self.hyperparameters, **options)

    def _training_samples(self, rollout: Rollout) -> list[dict[str, Any]]:
        """Return the first rows of ``rollout`` to record."""
        if self.decode is None or not self.records_samples:
            return []
        rows = sample_rows(rollout, self.decode, limit=TRAINING_SAMPLES)
        return [row | {"source": TRAINING} for row in rows]

    def _adapt(self, described: dict[str, Metric], experience: Experience) -> None:
        if "train/kl_divergence" in described:
            num_rows = int(experience.rollout.valid_rows.sum())
            self.kl.observe(float(described["train/kl_divergence"].value), num_rows=num_rows)

    def _count_tokens(self, experience: Experience, updates: int) -> None:
        rollout, plan = experience.rollout, self.updater.plan
        learned = count_tokens(rollout) * min(float(plan.num_epochs), updates * plan.rows_per_update / rollout.num_rows)
        self.session.timer.count("update", tokens=round(learned))


def count_tokens(rollout: Rollout) -> int:
    """Return the tokens of all prompts and responses."""
    return int(rollout.response_lengths.sum()) + int(rollout.prompt_lengths.sum())
