"""What one rollout pays for: denominators, limit, order of rows, and the supervised loss beside it."""

from __future__ import annotations

import dataclasses
from dataclasses import replace

import numpy as np
import paddle
import pytest

from alignment.algorithms.adaptive_entropy import AdaptiveEntropy
from alignment.algorithms.on_policy.ppo import PPO, PPOHyperparameters
from alignment.algorithms.on_policy.ppo_lagrangian import PPO_LAGRANGIAN, PPOLagrangianHyperparameters
from alignment.loops.updates import OnPolicyUpdater, UpdatePlan
from alignment.metrics import Metric
from alignment.parallel.micro_batches import MicroBatches
from alignment.records import Experience, Rollout, TokenBatch

PLAN = UpdatePlan(
    rows_per_update=2,
    micro_batches=MicroBatches(rows=1),
    num_epochs=1,
    seed=0,
    temperature=1.0,
    ptx_coeff=0.0,
    with_entropy=False,
)


class _Learner:
    """Answers with the old log-probs (or values); keeps the rows it sees, by the second token of their prompts."""

    def __init__(self, name="policy"):
        self.name, self.num_updates, self.rows, self.reads, self.values = name, 0, [], [], []

    def accumulate(self, batches, objective):
        metrics = []
        for batch in batches:
            field = {"policy": "old_logprobs", "critic": "values", "cost_critic": "cost_values"}[self.name]
            given = batch.fields.get(field, np.full(batch.num_targets, -2.0, np.float32))
            output = paddle.to_tensor(given, stop_gradient=False)
            supervised = field not in batch.fields
            is_policy = self.name == "policy" and not supervised
            loss = objective.loss((output, None) if is_policy else output, batch)
            metrics.append(loss.metrics)
            self.values.append((supervised, float(loss.value)))
            self.reads.append(objective.read)
            if not supervised:
                self.rows += batch.input_ids[:, 1].tolist()
        return metrics

    def apply(self):
        self.num_updates += 1
        return {f"{self.name}/applied": Metric(1.0, "sum")}


def _updater(policy, *, critic=None, next_ptx=None, **plan):
    return OnPolicyUpdater(
        policy=policy,
        critic=critic,
        algorithm=PPO,
        hyperparameters=PPOHyperparameters(),
        plan=UpdatePlan(**{**{name: getattr(PLAN, name) for name in PLAN.__dataclass_fields__}, **plan}),
        next_ptx=next_ptx,
    )


def _experience(num_rows=8, *, valid=None):
    """Rows of three tokens; every advantage is 1, every return is 3 above its value."""
    ones = np.ones((num_rows, 3), np.float32)
    rollout = Rollout(
        prompts=tuple(np.array([1, 10 + i]) for i in range(num_rows)),
        responses=tuple(np.array([3, 4, 2]) for _ in range(num_rows)),
        finish_reasons=("stop",) * num_rows,
        group_ids=np.arange(num_rows),
        old_logprobs=-ones,
        ref_logprobs=-ones,
        values=ones,
        valid=valid,
    )
    return Experience(rollout=rollout, advantages=ones, returns=4 * ones, rewards=ones)


def test_the_losses_of_an_update_are_means_over_the_tokens_of_that_update():
    policy, critic = _Learner(), _Learner("critic")
    metrics, updates = _updater(policy, critic=critic).update(_experience(), limit=99)
    assert updates == policy.num_updates == critic.num_updates == 4
    assert metrics["policy/ratio_mean"].value == pytest.approx(1.0)
    assert [value for _, value in policy.values] == pytest.approx([-0.5] * 8), "two micro-batches an update"
    assert [value for _, value in critic.values] == pytest.approx([0.5 * 9 / 2] * 8)
    assert metrics["policy/loss"].value == pytest.approx(-1.0)
    assert metrics["critic/loss"].value == pytest.approx(4.5)


def test_the_critic_of_the_cost_learns_the_returns_of_the_cost():
    policy, critic, cost_critic = _Learner(), _Learner("critic"), _Learner("cost_critic")
    updater = replace(
        _updater(policy, critic=critic),
        cost_critic=cost_critic,
        algorithm=PPO_LAGRANGIAN,
        hyperparameters=PPOLagrangianHyperparameters(),
    )
    experience, ones = _experience(), np.ones((8, 3), np.float32)
    costs = {"cost_returns": 4 * ones, "rollout": experience.rollout.with_fields(cost_values=2 * ones)}
    metrics, updates = updater.update(replace(experience, **costs), limit=99)
    assert updates == policy.num_updates == critic.num_updates == cost_critic.num_updates == 4
    assert [value for _, value in cost_critic.values] == pytest.approx([0.5 * 4 / 2] * 8)
    assert metrics["critic/loss"].value == pytest.approx(4.5)
    assert metrics["cost_critic/loss"].value == pytest.approx(2.0)
    assert metrics["cost_critic/value_mean"].value == pytest.approx(2.0)


def test_no_more_updates_than_the_limit():
    policy = _Learner()
    _, updates = _updater(policy).update(_experience(), limit=3)
    assert updates == policy.num_updates == 3


def test_every_pass_sees_every_row_once():
    policy = _Learner()
    _, updates = _updater(policy, num_epochs=3).update(_experience(), limit=99)
    assert updates == 12
    passes = [policy.rows[i : i + 8] for i in (0, 8, 16)]
    assert all(sorted(rows) == list(range(10, 18)) for rows in passes)
    assert passes[0] != passes[1] != passes[2]


def test_the_order_of_rows_differs_from_rollout_to_rollout_and_from_seed_to_seed():
    first, second = _Learner(), _Learner()
    updater = _updater(first, rows_per_update=8)
    for _ in range(2):
        updater.update(_experience(), limit=9)
    assert first.rows[:8] != first.rows[8:] and sorted(first.rows[:8]) == sorted(first.rows[8:])
    _updater(second, rows_per_update=8, seed=1).update(_experience(), limit=9)
    assert second.rows != first.rows[:8]


def test_an_update_without_a_valid_token_is_left_out():
    valid = np.array([True, False])
    policy = _Learner()
    metrics, updates = _updater(policy, rows_per_update=1).update(_experience(2, valid=valid), limit=99)
    assert updates == policy.num_updates == 1 and policy.rows == [10]
    assert metrics["policy/ratio_mean"].value == pytest.approx(1.0)


def test_the_supervised_loss_has_its_coefficient_and_as_many_rows_as_the_update():
    asked = []

    def next_ptx(num_rows):
        asked.append(num_rows)
        return [TokenBatch.build([np.array([1, 2, 3])], [np.array([1, 2])])] * num_rows

    policy = _Learner()
    metrics, _ = _updater(policy, next_ptx=next_ptx, ptx_coeff=0.25).update(_experience(), limit=99)
    assert asked == [2] * 4
    assert [value for supervised, value in policy.values if supervised] == pytest.approx([0.25 * 2.0 / 2] * 8)
    assert metrics["ptx/loss"].value == pytest.approx(2.0), "reported without its coefficient"
    assert metrics["policy/applied"].value == 1.0, "both losses share one update"


def test_the_temperature_and_the_entropy_reach_the_log_probs_of_the_update():
    policy = _Learner()
    _updater(policy, temperature=0.7, with_entropy=True).update(_experience(), limit=1)
    assert [read.keywords for read in policy.reads] == [{"temperature": 0.7, "with_entropy": True}] * 2


class _Moving(_Learner):
    """A policy whose log-probs rise by ``step`` nats at each update."""

    def __init__(self, step):
        super().__init__()
        self.step, self.discarded = step, 0

    def accumulate(self, batches, objective):
        moved = []
        for batch in batches:
            fields = {**batch.fields, "old_logprobs": batch.fields["old_logprobs"]}
            output = paddle.to_tensor(fields["old_logprobs"] + self.step * self.num_updates, stop_gradient=False)
            moved.append(objective.loss((output, None), batch).metrics)
        return moved

    def discard(self):
        self.discarded += 1


@pytest.mark.parametrize(
    ("target", "updates", "stopped"),
    [
        (None, 8, None),
        # k3 after n updates of 0.1 nats: e^0.1n - 1 - 0.1n = 0.0052, 0.0214, 0.0499; the limit is 1.5 times the target.
        (0.0499 / 1.5, 4, 1.0),
        (0.0498 / 1.5, 3, 1.0),
        (0.0052 / 1.5, 2, 1.0),
        (0.0051 / 1.5, 1, 1.0),
        (10.0, 8, 0.0),
    ],
)
def test_the_other_updates_of_a_rollout_are_skipped_once_the_policy_is_too_far(target, updates, stopped):
    policy, critic = _Moving(0.1), _Learner("critic")
    updater = _updater(policy, critic=critic, num_epochs=2, target_kl=target)
    metrics, made = updater.update(_experience(), limit=99)
    assert made == policy.num_updates == critic.num_updates == updates
    assert policy.discarded == bool(stopped)
    found = metrics.get("policy/stopped_by_kl")
    assert (found and found.value) == stopped


def test_the_first_update_from_a_rollout_is_always_made():
    policy = _Moving(0.5)
    policy.num_updates = 4
    _, made = _updater(policy, target_kl=1e-3).update(_experience(), limit=99)
    assert made == 1 and policy.discarded == 1


def test_only_the_critic_learns_while_the_policy_is_frozen():
    policy, critic, asked = _Learner(), _Learner("critic"), []

    def next_ptx(count):
        asked.append(count)
        return [TokenBatch.build([np.array([1, 2, 3])] * count, [np.array([1, 2])] * count)]

    updater = _updater(policy, critic=critic, frozen_updates=6, next_ptx=next_ptx, ptx_coeff=1.0)
    metrics, made = updater.update(_experience(), limit=99)
    assert (made, policy.num_updates, critic.num_updates) == (4, 0, 4)
    assert policy.rows == [] and asked == []
    assert "critic/applied" in metrics and not any(name.startswith(("policy/", "ptx/")) for name in metrics)
    first = list(critic.rows)
    updater.update(_experience(), limit=99)
    assert (policy.num_updates, critic.num_updates) == (2, 8)
    assert critic.rows[8:] != first, "the order of rows goes on changing while the policy is frozen"


def test_the_average_follows_the_policy_after_each_of_its_updates():
    policy, critic, followed = _Learner(), _Learner("critic"), []

    class _Average:
        def follow(self):
            followed.append(policy.num_updates)

    updater = dataclasses.replace(_updater(policy, critic=critic, frozen_updates=1), average=_Average())
    updater.update(_experience(), limit=99)
    assert followed == [1, 2, 3]


def test_the_bonus_has_the_coefficient_from_before_the_update_and_only_while_the_entropy_is_low():
    """Entropies 0.5, 0.1, 0.1, 0.1 with the target 0.2; the loss of an update without a bonus is -1."""

    class _Drifting(_Learner):
        def accumulate(self, batches, objective):
            entropy = 0.1 if self.num_updates else 0.5
            metrics, self.losses = [], getattr(self, "losses", [])
            for batch in batches:
                logprobs = paddle.to_tensor(batch.fields["old_logprobs"])
                loss = objective.loss((logprobs, paddle.full_like(logprobs, entropy)), batch)
                self.losses.append(float(loss.value))
                metrics.append(loss.metrics)
            return metrics

    policy = _Drifting()
    numbers = PPOHyperparameters(use_adaptive_entropy=True, entropy_coeff=0.25)
    entropy = AdaptiveEntropy(coefficient=0.25, target=0.2, step=0.5, minimum=0.0, maximum=1.0)
    updater = replace(_updater(policy, with_entropy=True), hyperparameters=numbers, entropy=entropy)
    metrics, updates = updater.update(_experience(), limit=9)
    assert updates == 4 and entropy.coefficient == 1.0
    # After the first: 0.25 - 0.5, at least 0; then 0.5, 1 and 1.
    applied = [0.0, 0.0, 0.5, 1.0]
    assert metrics["policy/entropy_coeff"].value == pytest.approx(np.mean(applied))
    by_update = np.array(policy.losses).reshape(4, 2).sum(1)
    assert by_update == pytest.approx([-1 - 0.1 * coefficient for coefficient in applied])
