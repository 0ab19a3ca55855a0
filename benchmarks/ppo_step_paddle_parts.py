"""The parts of this package that ``ppo_step_paddle.py`` puts together, built as ``runs/on_policy/run.py`` does."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ppo_step_work import Work

from alignment.algorithms.on_policy.ppo import PPO
from alignment.arguments.parsed import Parsed
from alignment.generation.eager.eager_engine import EagerEngine
from alignment.generation.engine import Engine, GenerationOptions
from alignment.generation.engine_placement import WHOLE_MODEL
from alignment.generation.fused.fused_engine import FusedEngine
from alignment.generation.fused.sequences import make_sequences
from alignment.loops.rollout_engine import RolloutEngine
from alignment.loops.updates import OnPolicyUpdater, UpdatePlan
from alignment.models.folders.hub import load_causal_lm, load_score_model
from alignment.parallel.comms.group import ALONE
from alignment.parallel.initialise import initialise
from alignment.records import Completion
from alignment.rollout.collector import Collector
from alignment.rollout.judge import Judge
from alignment.rollout.rewards.retokenize import SameTokens
from alignment.rollout.rewards.scorers import ModelScorer
from alignment.runs.assembly import build_learner
from alignment.runs.launch import Launch, choose_operators, choose_precision, choose_sharing
from alignment.runs.on_policy.algorithm import critic_training
from alignment.runs.on_policy.engines import fused_settings
from alignment.runs.on_policy.prompts import RowPlan
from alignment.runs.on_policy.reference import place_reference
from alignment.runs.on_policy.roles import freeze, load_critic
from alignment.runs.on_policy.savings import build_logprob_check, takes_values_from_update
from alignment.runs.placed import place_frozen, scoring_runner
from alignment.trainers.ppo.arguments import parse_ppo_arguments
from alignment.training.checkpoint import CheckpointStore
from alignment.training.learner import Learner

GAP_LIMITS = {"highest": 1e-3, "medium": 5e-2}
"""Nats that 99 % of the sampled tokens' log-probs may differ between engine and trainer, by the precision of the
trainer's products (the engine's is float32); above it the run stops.
"""
PACKING = {"packing_samples": True, "max_tokens_per_batch": 4096}
"""Ragged rows are learned from by token budget."""


def parse_work(work: Work, folder: Path) -> Parsed:
    """Return the arguments of a PPO run that makes this very step."""
    values = {
        "train_datasets": "unused",
        "actor_model_name_or_path": folder / "policy",
        "reward_model_name_or_path": folder / "reward",
        "reward_critic_model_name_or_path": folder / "critic",
        "output_dir": folder / "run",
        "device": "cpu",
        "seed": work.seed,
        "max_length": int(work.prompt_lengths.max() + work.response_lengths.max()),
        "max_dec_len": int(work.response_lengths.max()),
        "top_p": 1.0,
        "per_device_prompt_batch_size": work.num_prompts,
        "num_return_sequences": work.answers,
        "per_device_train_batch_size": work.rows_per_batch,
        "gradient_accumulation_steps": work.num_rows // work.rows_per_batch,
        "learning_rate": work.learning_rate,
        "critic_learning_rate": work.learning_rate,
        "lr_scheduler_type": "constant",
        "max_grad_norm": work.max_grad_norm,
        "kl_coeff": work.kl_coeff,
        "clip_range_ratio": work.clip_ratio,
        "clip_range_score": work.clip_score,
        "clip_range_value": work.clip_value,
        "gamma": work.gamma,
        "gae_lambda": work.gae_lambda,
        "logprob_gap_limit": GAP_LIMITS[work.overrides.get("float32_matmul_precision", "highest")],
        "on_logprob_gap": "stop",
        **(PACKING if work.is_ragged else {}),
        **work.overrides,
    }
    return parse_ppo_arguments([word for key, value in values.items() for word in (f"--{key}", spell(value))])


def spell(value: Any) -> str:
    """Return a value as the command line spells it."""
    return str(value) if isinstance(value, str | Path) else json.dumps(value)


class OfLengths:
    """An engine whose answers have given lengths: there is no stop token."""

    def __init__(self, engine: Engine, lengths: Sequence[int]) -> None:
        """``lengths``: of the N answers of every rollout."""
        self._engine, self._lengths = engine, lengths
        self.features = engine.features

    def load_weights(self, weights: Any, version: int) -> None:
        """See ``Engine``."""
        self._engine.load_weights(weights, version)

    def release(self) -> None:
        """See ``Engine``."""
        self._engine.release()

    def generate(
        self, prompts: Sequence[Sequence[int]], options: GenerationOptions, *, seed: int, sequence_ids: Sequence[int]
    ) -> list[Completion]:
        """See ``Engine``; the eager engine computes all rows to the longest answer, the rest is cut off."""
        limits = [int(self._lengths[number % len(self._lengths)]) for number in sequence_ids]
        if isinstance(self._engine, FusedEngine):
            rows = [np.asarray(prompt, np.int64) for prompt in prompts]
            return self._engine.run_sequences(
                make_sequences(rows, limits, sequence_ids=sequence_ids), options, seed=seed
            )
        found = self._engine.generate(prompts, options, seed=seed, sequence_ids=sequence_ids)
        return [_cut(completion, limit) for completion, limit in zip(found, limits, strict=True)]


def _cut(completion: Completion, length: int) -> Completion:
    kept = {name: getattr(completion, name)[:length] for name in ("token_ids", "logprobs")}
    return dataclasses.replace(completion, **kept)


class Parts:
    """Learners, engines, judge and updater of a step."""

    def __init__(self, folder: Path) -> None:
        self.work = Work.read(folder)
        self.parsed = parse_work(self.work, folder)
        self.launch, self.plan = self._start(folder), RowPlan.of(self.parsed)
        training, policy, critic = (
            self.parsed.training,
            load_causal_lm(folder / "policy", dtype="float32"),
            load_critic(str(folder / "critic")),
        )
        self.policy = build_learner(self.launch, "policy", policy, training, total_updates=1)
        self.critic = build_learner(self.launch, "critic", critic, critic_training(self.parsed), total_updates=1)
        self.values_from_update = takes_values_from_update(self.launch, self.plan)
        self.check = build_logprob_check(self.launch, self.plan)

    def choose_savings(self, *, plain: bool) -> None:
        """Use compiled operators and shared prefixes as the arguments say; ``plain``: neither."""
        training = self.parsed.training
        choose_operators(ALONE, wanted=training.use_native_ops and not plain)
        choose_sharing(wanted=False if plain else training.share_prefixes)
        choose_precision(ALONE, wanted="highest" if plain else training.float32_matmul_precision)

    def _start(self, folder: Path) -> Launch:
        topology = initialise(device="cpu", seed=self.work.seed)
        output_dir = folder / "run"
        store = CheckpointStore(output_dir, limit=None, topology=topology)
        launch = Launch(parsed=self.parsed, topology=topology, output_dir=output_dir, store=store, checkpoint=None)
        self.choose_savings(plain=False)
        return launch

    def fused(self) -> FusedEngine:
        """Return the compiled engine."""
        model = self.policy.runner.model
        settings = fused_settings(self.parsed, model.config, WHOLE_MODEL, rows=self.work.num_rows, device="cpu")
        return FusedEngine(model, settings)

    def eager(self) -> EagerEngine:
        """Return the reference engine."""
        return EagerEngine(self.policy.runner.model)

    def rollouts(self, engine: Engine) -> tuple[RolloutEngine, Collector]:
        """Return what keeps ``engine`` up to date, and what collects rollouts from it."""
        lengths = self.work.response_lengths.tolist()
        engine = OfLengths(engine, lengths)
        options = GenerationOptions(max_new_tokens=max(lengths))
        collector = Collector(engine, options, num_return_sequences=self.work.answers, seed=self.work.seed)
        return RolloutEngine(engine=engine, policy=self.policy), collector

    def judge(self) -> Judge:
        """Return the judge without savings."""
        on_policy, rows = self.parsed.on_policy, self.work.rows_per_batch
        source = self.parsed.reward_source.reward_model_name_or_path
        reference = freeze(load_causal_lm(on_policy.actor_model_name_or_path, dtype="float32"))
        reward = freeze(load_score_model(source, dtype="float32"))
        placed = place_frozen("reward", reward, self.launch.topology, offload=False)
        return Judge(
            policy=scoring_runner(self.policy),
            reference=place_reference(self.launch, reference, self.policy),
            critic=scoring_runner(self.critic),
            scorer=ModelScorer(placed, SameTokens(), rows_per_batch=rows),
            normalize=None,
            logprob_rows=rows,
            value_rows=rows,
            temperature=self.parsed.generation.temperature,
        )

    def updater(self) -> OnPolicyUpdater:
        """Return what turns a rollout into an update."""
        learners: list[Learner] = [self.policy, self.critic]
        plan = UpdatePlan(
            rows_per_update=self.plan.rows_per_update,
            micro_batches=self.plan.micro_batches,
            num_epochs=self.parsed.on_policy.update_iters,
            seed=self.work.seed,
            temperature=self.parsed.generation.temperature,
            ptx_coeff=self.parsed.on_policy.ptx_coeff,
            with_entropy=self.parsed.algorithm.entropy_coeff > 0,
            counts_shared_once=all(learner.runner.model.model.shares_tokens for learner in learners),
        )
        return OnPolicyUpdater(
            policy=self.policy,
            critic=self.critic,
            algorithm=PPO,
            hyperparameters=self.parsed.algorithm,
            plan=plan,
            next_ptx=None,
        )
