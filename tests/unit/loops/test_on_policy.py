"""The loop with parts that state their numbers: what reaches the updates from engine, gate and rollouts ahead."""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext
from threading import current_thread, main_thread
from types import SimpleNamespace

import numpy as np
import paddle
import pytest

from alignment.algorithms.on_policy.critic_free.dapo import DAPO
from alignment.algorithms.on_policy.ppo import PPO, PPOHyperparameters
from alignment.algorithms.on_policy.registered import ALGORITHMS
from alignment.errors import NumericalError, UserError
from alignment.generation.engine import GenerationOptions
from alignment.loops.on_policy import KLController, OnPolicyLoop
from alignment.loops.rollout_ahead import RolloutAhead
from alignment.loops.updates import OnPolicyUpdater, UpdatePlan
from alignment.parallel.micro_batches import MicroBatches
from alignment.records import Completion, Rollout
from alignment.rollout.collector import Collector
from alignment.rollout.dynamic_sampling import DynamicSampling
from alignment.rollout.gate import LogprobGate
from alignment.rollout.judge import Judge
from alignment.telemetry.timing import StageTimer

TRUE = np.log(np.array([0.5, 0.25, 0.5], np.float32))
"""What the trainer says of the three tokens of each response."""


class _Engine:
    """Samples token 7 three times; its log-probs are off by ``error``."""

    def __init__(self, error):
        self._error = np.asarray(error, np.float32)

    def generate(self, prompts, options, *, seed, sequence_ids):
        return [Completion(np.full(3, 7), TRUE + self._error, "length") for _ in prompts]


class _Judge:
    """States what a trainer would measure; the reference lies ``divergence`` below the policy."""

    def __init__(self, divergence):
        self._divergence = np.float32(divergence)

    def measure(self, rollout):
        grid = np.tile(TRUE, (rollout.num_rows, 1))
        scores = np.arange(rollout.num_rows, dtype=np.float32)
        zeros = np.zeros_like(grid)
        measured = {"old_logprobs": grid, "ref_logprobs": grid - self._divergence, "entropy": zeros, "values": zeros}
        return rollout.with_fields(raw_scores=scores, scores=scores, **measured)


class _Policy:
    """Keeps the fields of every micro-batch and their gradients at log-probs equal to the trainer's."""

    num_updates = 0

    def __init__(self):
        self.fields, self.gradients = [], []

    def accumulate(self, batches, objective):
        metrics = []
        for batch in batches:
            logprobs = paddle.to_tensor(np.tile(TRUE, (batch.num_rows, 1)), stop_gradient=False)
            loss = objective.loss((logprobs, None), batch)
            loss.value.backward()
            self.fields.append(batch.fields)
            self.gradients.append(logprobs.grad.numpy())
            metrics.append(loss.metrics)
        return metrics

    def apply(self):
        return {}


class _Session:
    """Ends after ``total_updates`` and keeps the metrics."""

    def __init__(self, total_updates):
        self.total_updates, self.counters, self.timer = total_updates, SimpleNamespace(updates=0), StageTimer()
        self.records, self.samples, self.explained = [], [], []
        self.alarm = None

    def stage(self, name):
        return nullcontext()

    def explaining(self, when):
        self.explained.append(when)
        return nullcontext()

    def advance(self, metrics, *, updates, epoch_ended, samples):
        self.counters.updates += updates
        self.samples.append(samples())
        self.records.append({name: float(metric.value) for name, metric in metrics.items()})

    @property
    def is_finished(self):
        return self.counters.updates >= self.total_updates


FIXED = KLController(coefficient=0.1, target=None, horizon=1.0)


def _run(error, action, *, iterations=1, rows_per_update=4, kl=FIXED, divergence=0.0, **parts):
    policy, session = _Policy(), _Session(iterations)
    ahead = parts.setdefault("ahead", RolloutAhead())
    engine = error if isinstance(error, _Engine) else _Engine(error)
    prompts = [{"input_ids": [1, number], "raw_input": "q"} for number in range(4)]
    collector = Collector(engine, GenerationOptions(max_new_tokens=3), num_return_sequences=1, seed=0)
    hyperparameters = PPOHyperparameters()
    sizes = {"rows_per_update": rows_per_update, "micro_batches": MicroBatches(rows=rows_per_update)}
    plan = UpdatePlan(**sizes, num_epochs=1, seed=0, temperature=1.0, ptx_coeff=0.0, with_entropy=False)
    OnPolicyLoop(
        prompts=iter([(prompts, False)] * iterations),
        collector=collector,
        judge=_Judge(divergence),
        gate=LogprobGate(limit=0.05, action=action, weight_cap=2.0, weighs_all=ahead.is_on),
        algorithm=PPO,
        hyperparameters=hyperparameters,
        kl=kl,
        updater=OnPolicyUpdater(
            policy=policy, critic=None, algorithm=PPO, hyperparameters=hyperparameters, plan=plan, next_ptx=None
        ),
        engine=SimpleNamespace(ready=lambda version: nullcontext()),
        session=session,
        **parts,
    ).run()
    return policy, session.samples if "decode" in parts else session.records


class _GroupJudge(_Judge):
    """Gives the responses of each rollout the next scores."""

    def __init__(self, *scores):
        super().__init__(0.0)
        self._scores = iter(scores)

    def measure(self, rollout):
        scores = np.array(next(self._scores), np.float32)
        return super().measure(rollout).with_fields(raw_scores=scores, scores=scores, values=None)


def _run_dynamic(judge, batches, **chosen):
    """Two prompts with two responses each; return (fields of the updates, records, ends of epochs, the collector)."""
    policy, session, engine = _Policy(), _Session(1), _Engine([0.0] * 3)
    ends = []
    advance = session.advance
    session.advance = lambda metrics, epoch_ended, **rest: (
        ends.append(epoch_ended), advance(metrics, epoch_ended=epoch_ended, **rest)
    )  # fmt: skip
    collector = Collector(engine, GenerationOptions(max_new_tokens=3), num_return_sequences=2, seed=0)
    prompts = [{"input_ids": [1, number], "raw_input": "q"} for number in range(2)]
    numbers = DAPO.hyperparameters(**chosen)
    plan = UpdatePlan(
        rows_per_update=4, micro_batches=MicroBatches(rows=4), num_epochs=1, seed=0, temperature=1.0, ptx_coeff=0.0,
        with_entropy=False,
    )  # fmt: skip
    updater = OnPolicyUpdater(
        policy=policy, critic=None, algorithm=DAPO, hyperparameters=numbers, plan=plan, next_ptx=None
    )
    OnPolicyLoop(
        prompts=iter([(prompts, ended) for ended in batches]),
        collector=collector,
        judge=judge,
        gate=LogprobGate(limit=0.05, action="warn", weight_cap=2.0),
        algorithm=DAPO,
        hyperparameters=numbers,
        kl=FIXED,
        updater=updater,
        engine=SimpleNamespace(ready=lambda version: nullcontext()),
        session=session,
        dynamic=DynamicSampling(max_batches=numbers.max_gen_batches) if numbers.dynamic_sampling else None,
    ).run()
    return policy.fields, session.records, ends, collector


def test_dynamic_sampling_learns_from_full_rollouts_of_informative_prompts():
    """The second rollout ends an epoch; it gives one prompt, the third is not sampled. Sequences are counted on."""
    judge = _GroupJudge([1, 1, 0, 2], [0, 4, 0, 0], [9, 8, 7, 6])
    fields, [record], ends, collector = _run_dynamic(judge, [False, True, False], max_gen_batches=5)
    assert ends == [True] and collector.num_sequences == 8
    assert record["rollout/kept_groups"] == 2 and record["rollout/gen_batches"] == 2
    assert record["train/reward"] == 1.5 and record["rollout/sampled_reward"] == 1.0
    assert sorted(fields[0]["advantages"][:, 0]) == pytest.approx([-(0.5**0.5)] * 2 + [0.5**0.5] * 2, rel=1e-5)


def test_truncated_responses_are_left_out_of_the_losses_but_not_of_their_groups():
    class _Ends(_GroupJudge):
        def measure(self, rollout):
            return super().measure(rollout).with_fields(finish_reasons=("stop", "length", "stop", "stop"))

    options = {"dynamic_sampling": False, "mask_truncated_completions": True}
    fields, _, _, _ = _run_dynamic(_Ends([0, 2, 0, 2]), [False], **options)
    order = np.argsort(fields[0]["response_mask"][:, 0], kind="stable")
    assert fields[0]["response_mask"][order][:, 0].tolist() == [0, 1, 1, 1]
    assert fields[0]["advantages"][order][0, 0] == pytest.approx(0.5**0.5, rel=1e-5)


def test_a_rollout_of_truncated_responses_alone_ends_the_run():
    options = {"dynamic_sampling": False, "mask_truncated_completions": True}
    with pytest.raises(UserError, match="all 4 responses of a rollout reached the length limit.*Raise max_dec_len"):
        _run_dynamic(_GroupJudge([0, 2, 0, 2]), [False], **options)


FAR, NEAR = [0.0, -1.0, 0.25], [0.0, -0.01, 0.02]


def test_the_gap_of_every_iteration_is_recorded():
    _, records = _run(FAR, "warn", iterations=3)
    assert len(records) == 3
    for record in records:
        assert record["rollout/logprob_gap_mean"] == pytest.approx(1.25 / 3, rel=1e-5)
        assert record["rollout/logprob_gap_p99"] == record["rollout/logprob_gap_max"] == pytest.approx(1.0)
        assert "rollout/importance_weight_mean" not in record


def test_warn_learns_as_if_nothing_were():
    (policy, [record]), (exact, _) = _run(FAR, "warn"), _run([0.0] * 3, "warn")
    assert record["policy/ratio_mean"] == 1.0
    np.testing.assert_array_equal(policy.gradients, exact.gradients)


@pytest.mark.parametrize("error", [FAR, NEAR])
def test_correct_multiplies_the_gradient_of_each_token_by_its_weight(error):
    (policy, [record]), (exact, _) = _run(error, "correct"), _run(error, "warn")
    weights = np.minimum(np.exp(-np.array(error, np.float32)), 2.0)
    np.testing.assert_allclose(policy.fields[0]["importance_weights"], np.tile(weights, (4, 1)), rtol=1e-5)
    np.testing.assert_allclose(policy.gradients[0], exact.gradients[0] * weights, rtol=1e-5)
    assert np.abs(exact.gradients[0]).max() > 0
    assert record["rollout/importance_weight_mean"] == pytest.approx(weights.mean(), rel=1e-5)
    assert record["rollout/importance_weight_max"] == pytest.approx(weights.max(), rel=1e-5)
    assert record["policy/ratio_mean"] == 1.0, "the ratio is still that of the trainer"


@pytest.mark.parametrize(("error", "old"), [(FAR, TRUE), (NEAR, TRUE + np.array(NEAR, np.float32))])
def test_recompute_takes_the_ratio_against_the_engine_within_the_limit_only(error, old):
    policy, [record] = _run(error, "recompute")
    np.testing.assert_allclose(policy.fields[0]["old_logprobs"], np.tile(old, (4, 1)), rtol=1e-6)
    assert record["policy/ratio_mean"] == pytest.approx(np.exp(TRUE - old).mean(), rel=1e-5)
    assert record["rollout/logprob_gap_max"] == pytest.approx(np.abs(error).max(), rel=1e-4), "to the trainer's"


def test_stop_comes_before_the_first_update():
    with pytest.raises(NumericalError, match="worst 1 nats at row 0, response position 1, token id 7"):
        _run(FAR, "stop")
    policy, _ = _run(NEAR, "stop")
    assert len(policy.gradients) == 1


def test_the_last_rollout_stops_at_max_steps():
    policy, [record] = _run([0.0] * 3, "warn", iterations=3, rows_per_update=1)
    assert len(policy.gradients) == 3, "one rollout pays for four updates"


def test_the_coefficient_adapts_after_the_rollout_it_was_used_in():
    """KL 3 ln 2 a response against the target 1: the error is cut to 0.2, over 4 of the horizon's 40 responses."""
    kl = KLController(coefficient=0.1, target=1.0, horizon=40.0)
    _, records = _run([0.0] * 3, "warn", iterations=3, kl=kl, divergence=np.log(2))
    grown = 0.1 * (1 + 0.2 * 4 / 40) ** np.arange(4)
    assert [record["train/kl_coeff"] for record in records] == pytest.approx(grown[:3], rel=1e-6)
    assert kl.coefficient == pytest.approx(grown[3])
    assert [record["train/kl_reward"] for record in records] == pytest.approx(-3 * np.log(2) * grown[:3], rel=1e-4)


def test_samples_of_training_are_given_where_they_can_be_decoded():
    _, [samples] = _run([0.0] * 3, "warn", decode=lambda ids: "-".join(map(str, ids)))
    row = {"prompt": "q", "response": "7-7-7", "finish_reason": "length", "source": "training"}
    assert samples == [row | {"score": float(number)} for number in range(4)]


@pytest.mark.parametrize(("iterations", "learned"), [(2, 20), (1, 10)])
def test_tokens_are_counted_by_stage_as_often_as_they_are_worked_on(iterations, learned, monkeypatch):
    """4 rows of 2 prompt and 3 response tokens; a rollout pays for two updates, of which the limit may leave one."""
    counted = {}
    monkeypatch.setattr(StageTimer, "count", lambda self, stage, tokens: counted.update({stage: tokens}))
    _run([0.0] * 3, "warn", iterations=iterations, rows_per_update=2)
    assert counted == {"rollout": 12, "score": 20, "update": learned}


@pytest.mark.parametrize("ahead", [{}, {"is_on": True}, {"is_on": True, "overlaps": True}])
def test_every_rollout_is_timed_where_it_is_sampled(ahead, monkeypatch):
    """A rollout beside the updates takes the time of its thread, and not that of waiting for it."""
    counted, threads = [], []
    monkeypatch.setattr(StageTimer, "count", lambda self, stage, tokens: counted.append((stage, tokens)))
    monkeypatch.setattr(
        StageTimer, "stage", lambda self, name: nullcontext(threads.append((name, current_thread() is main_thread())))
    )
    _run([0.0] * 3, "warn", iterations=3, ahead=RolloutAhead(**ahead))
    assert [row for row in counted if row[0] == "rollout"] == [("rollout", 12)] * 3
    assert threads == [("rollout", False)] * (2 if ahead.get("overlaps") else 0), "the session times the others"


@pytest.mark.parametrize("overlaps", [False, True])
@pytest.mark.parametrize("action", ["warn", "stop"])
def test_a_rollout_of_earlier_weights_is_weighed_and_its_distance_is_no_gap(action, overlaps):
    """The engine's log-probs of the first rollout are the trainer's; those of the others are of other weights."""
    ahead = RolloutAhead(is_on=True, overlaps=overlaps)
    policy, records = _run([0.0] * 3, action, iterations=1, ahead=ahead)
    assert ahead.in_hand is None, "nothing is sampled that the run would not learn from"
    assert records[0]["rollout/staleness"] == 0 and records[0]["rollout/importance_weight_mean"] == 1

    class _Drifting(_Engine):
        def generate(self, prompts, options, **rest):
            completions = super().generate(prompts, options, **rest)
            self._error = np.array(FAR, np.float32)
            return completions

    policy, records = _run(_Drifting([0.0] * 3), action, iterations=3, ahead=ahead)
    weights = np.minimum(np.exp(-np.array(FAR, np.float32)), 2.0)
    for record, fields, staleness in zip(records, policy.fields, [0, 1, 1], strict=True):
        expected = np.tile(weights if staleness else np.ones(3), (4, 1))
        np.testing.assert_allclose(fields["importance_weights"], expected, rtol=1e-5)
        np.testing.assert_array_equal(fields["old_logprobs"], np.tile(TRUE, (4, 1)), "the policy before the update")
        assert record["rollout/staleness"] == staleness
        assert ("rollout/logprob_gap_max" in record) == (not staleness)
        # exp(1) exceeds the cap of 2, exp(-0.25) and 1 do not.
        assert record["rollout/importance_weight_truncated"] == pytest.approx(staleness / 3)
        assert record["policy/ratio_mean"] == 1.0


def test_an_error_in_a_rollout_ahead_ends_the_run():
    class _Failing(_Engine):
        def generate(self, prompts, options, *, seed, sequence_ids):
            if sequence_ids[0]:
                raise UserError("no room")
            return super().generate(prompts, options, seed=seed, sequence_ids=sequence_ids)

    with pytest.raises(UserError, match="no room"):
        _run(_Failing([0.0] * 3), "warn", iterations=2, ahead=RolloutAhead(is_on=True, overlaps=True))


@pytest.mark.parametrize(("name", "has_it"), [("grpo", True), ("ppo", False)])
def test_a_raised_kl_scales_the_coefficient_of_the_loss_where_the_algorithm_has_one(name, has_it):
    numbers = ALGORITHMS[name].hyperparameters()
    given = {item.name: None for item in dataclasses.fields(OnPolicyLoop)}
    updater = OnPolicyUpdater(**{item.name: None for item in dataclasses.fields(OnPolicyUpdater)})
    updater = dataclasses.replace(updater, hyperparameters=numbers)
    kl = KLController(coefficient=0.1, target=None, horizon=1.0, loss_scale=4.0)
    loop = OnPolicyLoop(**{**given, "hyperparameters": numbers, "updater": updater, "kl": kl})
    if has_it:
        assert loop._updater.hyperparameters.kl_loss_coeff == 4 * numbers.kl_loss_coeff > 0
    else:
        assert loop._updater is updater


def test_a_greedy_baseline_reaches_every_row_of_its_prompt():
    class _Scorer:
        def score(self, rollout):
            return SimpleNamespace(values=np.array([5, 7], np.float32), valid=np.array([True, False]))

    judge = object.__new__(Judge)
    vars(judge).update(scorer=_Scorer(), normalize=None, terms=None)
    grid = np.zeros((4, 1), np.float32)
    rollout = Rollout(
        prompts=(np.array([1]),) * 4, responses=(np.array([2]),) * 4, finish_reasons=("stop",) * 4,
        group_ids=np.array([0, 0, 1, 1]), rollout_logprobs=grid,
    )  # fmt: skip
    compared = judge.compare_with(rollout, rollout)
    assert compared.baseline_scores.tolist() == [5, 5, 7, 7] and compared.valid.tolist() == [True, True, False, False]
