"""Assemble and run an on-policy algorithm, from the parsed arguments to the exported models and the report."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable

import numpy as np

from alignment.device.memory import MemoryWatch
from alignment.loops.evaluation import PromptEvaluation
from alignment.loops.on_policy import KLController, OnPolicyLoop
from alignment.loops.rollout_engine import RolloutEngine
from alignment.loops.session import Counters, Hooks, Session
from alignment.loops.updates import OnPolicyUpdater, UpdatePlan
from alignment.models.folders.run_models import CRITIC_FOLDERS
from alignment.records import Experience
from alignment.rollout.collector import Collector
from alignment.rollout.dynamic_sampling import DynamicSampling
from alignment.rollout.gate import LogprobGate
from alignment.rollout.judge import Judge
from alignment.rollout.placed_engine import PlacedEngine
from alignment.rollout.team_engine import TeamEngine
from alignment.runs.assembly import (
    Horizon,
    build_learner,
    build_session,
    build_stop,
    loader_part,
    stream_batches,
)
from alignment.runs.changed_arguments import ARGUMENTS, arguments_part
from alignment.runs.finish import finish_run
from alignment.runs.frozen import FROZEN
from alignment.runs.launch import Launch
from alignment.runs.on_policy.algorithm import ChosenAlgorithm, build_entropy, critic_training
from alignment.runs.on_policy.engines import (
    build_ahead,
    build_engine,
    describe_restrictions,
    generation_options,
    previous_answers,
)
from alignment.runs.on_policy.hacking import build_alarm, build_best_kept
from alignment.runs.on_policy.prompts import OnPolicyData, RowPlan, ptx_batches
from alignment.runs.on_policy.reference import judging_ranks, place_reference
from alignment.runs.on_policy.replay import start_replay
from alignment.runs.on_policy.rewards import (
    against_start,
    build_cost_normalizer,
    build_cost_scorer,
    build_judges,
    build_multiplier,
    build_normalizer,
    build_scorer,
    build_terms,
    first_answers,
)
from alignment.runs.on_policy.roles import Roles
from alignment.runs.on_policy.savings import build_logprob_check, takes_values_from_update
from alignment.runs.placed import average_writer, model_writer, scoring_runner
from alignment.runs.state import RunState, StatePart, WrittenAverage
from alignment.telemetry import log
from alignment.training.learner import Learner
from alignment.training.weight_average import AVERAGE_FOLDER, WeightAverage

REPORT_CARDS = ("eval/reward", "eval/kl_divergence", "eval/mean_generated_length", "eval/eos_rate")
COST_CARDS = ("eval/cost", "eval/unsafe_rate")
EVALUATION_SEED_OFFSET = 1_000_003
"""Evaluation uses other random numbers than training, and the same ones every time."""


class OnPolicyRun:
    """One run of an on-policy algorithm, assembled from parsed arguments."""

    def __init__(self, launch: Launch, roles: Roles, data: OnPolicyData, plan: RowPlan) -> None:
        self._launch, self._roles, self._data, self._plan = launch, roles, data, plan
        self._algorithm, self._hyperparameters = ChosenAlgorithm.of(launch.parsed)
        self._horizon = Horizon.of(
            launch.parsed.training,
            plan.updates_per_epoch(data.prompt_loader),
            f"train_datasets={launch.parsed.on_policy.train_datasets}",
            updates_at_once=plan.updates_per_rollout,
        )
        self._learners = self._build_learners()
        self._values_from_update = takes_values_from_update(launch, plan)
        beta = launch.parsed.on_policy.ema_beta
        self._average = WeightAverage(self._learners["policy"], beta=beta) if launch.parsed.on_policy.use_ema else None
        self._previous = previous_answers(launch.parsed)
        engine = build_engine(launch, roles, self._learners["policy"], plan, previous=self._previous)
        self._engine = RolloutEngine(engine=engine, policy=self._learners["policy"])
        self._reference = place_reference(launch, roles.reference or roles.reference_client, self._learners["policy"])
        self._scorer = build_scorer(launch, roles)
        self._held_out_scorer, self._judges = against_start(self._scorer), build_judges(launch, roles)
        self._normalize, normalizer_part = build_normalizer(launch, roles, self._scorer)
        self._cost = build_cost_scorer(launch, roles)
        self._normalize_cost = build_cost_normalizer(launch, roles)
        self._multiplier = build_multiplier(self._hyperparameters) if self._algorithm.needs_cost else None
        if (restrictions := describe_restrictions(launch.parsed.generation)) is not None:
            log.info(restrictions)
        self._collector = Collector(
            self._engine.engine,
            generation_options(launch.parsed, roles, sample=True),
            num_return_sequences=plan.samples_per_prompt,
            seed=launch.parsed.training.seed,
            records_experts=start_replay(launch, roles.policy),
        )
        kl = self._hyperparameters
        self._kl = KLController(coefficient=kl.kl_coeff, target=kl.kl_target, horizon=kl.kl_horizon)
        self._entropy = build_entropy(self._hyperparameters)
        self._ahead = build_ahead(launch, self._engine.engine, self._learners["policy"])
        self._alarm = build_alarm(launch, self._learners["policy"], self._kl, judges=tuple(self._judges))
        self._state = self._build_state(normalizer_part)

    def train(self, observe: Callable[[Experience], None] | None = None, *, memory: MemoryWatch | None = None) -> None:
        """Train (or only evaluate), export and report; ``memory`` replaces the default memory watch."""
        training = self._launch.parsed.training
        if self._launch.checkpoint is not None:
            self._state.restore(self._launch.checkpoint)
        evaluate = self._evaluation() if self._data.evaluation is not None else None
        best = build_best_kept(self._launch, self._alarm, keep=self._state.keep_best)
        session = build_session(
            self._launch,
            title=self._algorithm.title,
            model="policy",
            horizon=self._horizon,
            hooks=Hooks(
                evaluate=evaluate, save=self._state.save, best=best, stop=build_stop(training, default="reward")
            ),
            counters=self._state.counters,
            shown=(
                *("train/reward", "train/kl_divergence", "critic/explained_variance", "train/mean_generated_length"),
                *(("train/cost", "train/lambda") if self._algorithm.needs_cost else ()),
            ),
        )
        session.memory, session.alarm = memory or session.memory, self._alarm
        session.flat_rewards.prompts = self._plan.prompts_per_iteration
        with contextlib.closing(session.writers):
            if training.do_train:
                self._alarm.write()
            if training.do_train and not session.is_finished:
                self._state.check_space()
                log.info(self._plan.describe_run(self._launch.parsed, self._horizon))
                if self._state.counters.updates == 0:
                    session.evaluate()
                with self._launch.signals.deferred("the current rollout and its updates"), session.progress:
                    dataclasses.replace(self._loop(session), observe=observe).run()
            finish_run(self._launch, session, self._state, title=self._algorithm.title, cards=self._cards)

    @property
    def _cards(self) -> tuple[str, ...]:
        costs = COST_CARDS if self._algorithm.needs_cost else ()
        return (REPORT_CARDS[0], *(f"eval/{name}" for name in self._judges), *costs, *REPORT_CARDS[1:])

    def _loop(self, session: Session) -> OnPolicyLoop:
        on_policy, engine, data = self._launch.parsed.on_policy, self._launch.parsed.engine, self._data
        hyperparameters, algorithm = self._hyperparameters, self._algorithm
        judge = self._judge(training=True)
        return OnPolicyLoop(
            prompts=stream_batches(data.prompt_loader),
            dynamic=(
                DynamicSampling(max_batches=hyperparameters.max_gen_batches)
                if hyperparameters.dynamic_sampling
                else None
            ),
            collector=self._collector,
            judge=judge,
            gate=LogprobGate(
                limit=engine.logprob_gap_limit,
                action=engine.on_logprob_gap,
                weight_cap=on_policy.importance_weight_cap,
                falls_back=judge.check is not None,
                weighs_all=self._ahead.is_on,
            ),
            algorithm=algorithm,
            hyperparameters=hyperparameters,
            kl=self._kl,
            updater=self._updater(),
            engine=self._engine,
            session=session,
            decode=self._decode,
            records_samples=data.evaluation is None,
            ahead=self._ahead,
            values_from_update=self._values_from_update,
            multiplier=self._multiplier,
        )

    def _updater(self) -> OnPolicyUpdater:
        on_policy, hyperparameters, data = self._launch.parsed.on_policy, self._hyperparameters, self._data
        learn = [self._roles.policy, *self._roles.critics.values()]
        return OnPolicyUpdater(
            policy=self._learners["policy"],
            critic=self._learners.get("critic"),
            cost_critic=self._learners.get("cost_critic"),
            algorithm=self._algorithm,
            hyperparameters=hyperparameters,
            plan=UpdatePlan(
                rows_per_update=self._plan.rows_per_update,
                micro_batches=self._plan.micro_batches,
                num_epochs=self._plan.update_iters,
                seed=self._launch.parsed.training.seed,
                temperature=self._launch.parsed.generation.temperature,
                ptx_coeff=on_policy.ptx_coeff,
                with_entropy=hyperparameters.has_entropy_bonus,
                counts_shared_once=all(model.model.shares_tokens for model in learn),
                frozen_updates=self._plan.frozen_updates,
                target_kl=hyperparameters.target_kl,
            ),
            next_ptx=data.ptx_loader and ptx_batches(data.ptx_loader, self._plan.micro_batches),
            average=self._average,
            entropy=self._entropy,
            ranks=self._launch.roles,
        )

    def _decode(self, ids: np.ndarray) -> str:
        return self._roles.tokenizer.decode(np.asarray(ids).tolist(), skip_special_tokens=True)

    def _judge(self, *, training: bool) -> Judge:
        parsed = self._launch.parsed
        micro, rows = parsed.training.per_device_train_batch_size, parsed.training.per_device_eval_batch_size
        critic, cost_critic = (self._learners.get(name) if training else None for name in CRITIC_FOLDERS)
        critic = None if self._values_from_update else critic
        return Judge(
            policy=scoring_runner(self._learners["policy"]),
            reference=self._reference,
            critic=None if critic is None else scoring_runner(critic),
            scorer=self._scorer if training else self._held_out_scorer,
            normalize=self._normalize if training else None,
            cost=self._cost,
            normalize_cost=self._normalize_cost,
            cost_critic=None if cost_critic is None else scoring_runner(cost_critic),
            logprob_rows=positive_or(parsed.on_policy.per_device_logprob_batch_size, micro) if training else rows,
            value_rows=self._value_rows if training else micro,
            temperature=parsed.generation.temperature,
            terms=build_terms(self._launch, self._roles.tokenizer),
            check=build_logprob_check(self._launch, self._plan) if training else None,
            with_entropy=training,
            replay=self._roles.policy.model.replay if training else None,
            ranks=judging_ranks(self._launch, self._roles.reference_client),
        )

    @property
    def _value_rows(self) -> int:
        """Rows per forward pass of a critic."""
        parsed = self._launch.parsed
        micro = parsed.training.per_device_train_batch_size
        return positive_or(parsed.critic.per_device_value_batch_size, micro) if self._learners.get("critic") else micro

    @property
    def _num_replicas(self) -> int:
        """Number of processes, or groups of them, that generate different rows concurrently."""
        engine = self._engine.engine
        return engine.num_replicas if isinstance(engine, (TeamEngine, PlacedEngine)) else 1

    def _evaluation(self) -> PromptEvaluation:
        parsed, evaluation = self._launch.parsed, self._data.evaluation
        return PromptEvaluation(
            prompts=[evaluation[i] for i in range(len(evaluation))],
            engine=self._engine,
            version=lambda: self._state.counters.updates,
            options=generation_options(parsed, self._roles, sample=parsed.generation.eval_do_sample),
            rows_per_call=parsed.training.per_device_eval_batch_size * self._num_replicas,
            judge=self._judge(training=False),
            decode=self._decode,
            seed=parsed.training.seed + EVALUATION_SEED_OFFSET,
            judges=self._judges,
            with_greedy=parsed.generation.answers_twice,
        )

    def _build_learners(self) -> dict[str, Learner]:
        """Return the learners of the policy and of the critics, by role."""
        parsed, total = self._launch.parsed, self._horizon.total_updates
        makes = max(1, total - self._plan.frozen_updates)
        policy = build_learner(self._launch, "policy", self._roles.policy, parsed.training, total_updates=makes)
        critics = {
            name: build_learner(self._launch, name, critic, critic_training(parsed), total_updates=total)
            for name, critic in self._roles.critics.items()
        }
        return {"policy": policy, **critics}

    def _build_state(self, normalizer_part: StatePart | None) -> RunState:
        parts = {
            ARGUMENTS: arguments_part(self._launch.parsed),
            FROZEN: self._roles.frozen,
            "prompts": loader_part(self._data.prompt_loader),
            "num_sequences": StatePart(
                lambda: self._collector.num_sequences, lambda value: setattr(self._collector, "num_sequences", value)
            ),
            "rollout_ahead": StatePart(self._ahead.state, self._ahead.load_state, is_optional=True),
            "hacking": StatePart(self._alarm.state, self._alarm.load_state, is_optional=True),
            "kl_coeff": StatePart(lambda: self._kl.coefficient, lambda value: setattr(self._kl, "coefficient", value)),
        }
        if self._previous is not None:
            state = StatePart(self._previous.state, self._previous.load_state, is_optional=True)
            parts["previous_answers"] = state
        if self._data.ptx_loader is not None:
            parts["ptx"] = loader_part(self._data.ptx_loader)
        answers = first_answers(self._held_out_scorer, self._judges)
        if answers is not None:
            parts["first_answers"] = answers
        if normalizer_part is not None:
            parts["reward_normalizer"] = normalizer_part
        if self._entropy is not None:
            parts["entropy"] = StatePart(self._entropy.state, self._entropy.load_state)
        if self._multiplier is not None:
            parts["multiplier"] = StatePart(self._multiplier.state, self._multiplier.load_state)
        learners = {CRITIC_FOLDERS.get(name, name): learner for name, learner in self._learners.items()}
        return RunState(
            store=self._launch.store,
            models={
                folder: model_writer(learner, self._roles.tokenizer, self._launch.topology)
                for folder, learner in learners.items()
            },
            learners=learners,
            counters=Counters(),
            parts=parts,
            averages=self._written_averages(),
        )

    def _written_averages(self) -> dict[str, WrittenAverage]:
        if (average := self._average) is None:
            return {}
        write = average_writer(average, self._roles.tokenizer, self._launch.topology)
        return {AVERAGE_FOLDER: WrittenAverage(average, write)}


def positive_or(value: int, default: int) -> int:
    """Return ``value`` if positive, else ``default`` (-1 means the training micro-batch)."""
    return value if value > 0 else default
