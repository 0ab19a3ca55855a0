"""The PPO step of ``ppo_step.py`` from the parts of this package, assembled as ``ppo/build.py`` does."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))

from alignment.parallel.host import prepare_host  # noqa: E402

HOST = prepare_host()  # before the first import of Paddle, which reads these settings once

import numpy as np  # noqa: E402
import paddle  # noqa: E402
from ppo_step_work import Work  # noqa: E402
from ppo_step_worker import serve  # noqa: E402

from alignment.algorithms.ppo import PPO, PPOHyperparameters  # noqa: E402
from alignment.arguments.training import TrainingArguments  # noqa: E402
from alignment.generation.eager_engine import EagerEngine  # noqa: E402
from alignment.generation.engine import GenerationOptions  # noqa: E402
from alignment.loops.assembly import build_learner  # noqa: E402
from alignment.loops.updates import OnPolicyUpdater, UpdatePlan  # noqa: E402
from alignment.models.hub import load_causal_lm, load_score_model  # noqa: E402
from alignment.models.score_model import ScoreOptions  # noqa: E402
from alignment.parallel.dense import DenseRunner  # noqa: E402
from alignment.parallel.initialise import initialise  # noqa: E402
from alignment.ppo.roles import freeze  # noqa: E402
from alignment.records import Experience, Rollout  # noqa: E402
from alignment.rollout.collector import Collector  # noqa: E402
from alignment.rollout.experience import estimate_experience  # noqa: E402
from alignment.rollout.judge import Judge  # noqa: E402
from alignment.rollout.retokenize import SameTokens  # noqa: E402
from alignment.rollout.scorers import ModelScorer  # noqa: E402


class PaddleSide:
    """See ``ppo_step_worker.Side``."""

    def __init__(self, folder: Path) -> None:
        self.work = Work.read(folder)
        initialise(device="cpu", seed=self.work.seed)
        policy = load_causal_lm(folder / "policy", dtype="float32")
        reference = freeze(load_causal_lm(folder / "policy", dtype="float32"))
        critic = load_score_model(folder / "critic", dtype="float32", options=ScoreOptions(score_type="critic"))
        reward = freeze(load_score_model(folder / "reward", dtype="float32"))
        training = TrainingArguments(
            output_dir=str(folder),
            learning_rate=self.work.learning_rate,
            lr_scheduler_type="constant",
            max_grad_norm=self.work.max_grad_norm,
        )
        learner = partial(build_learner, training=training, total_updates=1)
        self.policy, self.critic = learner("policy", policy), learner("critic", critic)
        self.engine = EagerEngine(policy)
        self.engine.load_weights(self.policy.weights(), 0)
        self.collector = self._collector()
        self.judge = self._judge(reference, reward)
        self.hyperparameters = self._hyperparameters()
        self.updater = self._updater()

    def use_variant(self, variant: str) -> None:
        """Accept the one variant there is."""
        assert variant == "library", variant

    def describe(self) -> dict[str, str]:
        """Return versions and settings."""
        return {"paddle": paddle.__version__, "host": HOST}

    def rollout(self, step: int) -> Rollout:
        """Sample at temperature 1 from all tokens."""
        prompts = [{"input_ids": row, "raw_input": ""} for row in self.work.prompts(step)]
        rollout = self.collector.collect(prompts, policy_version=self.policy.num_updates)
        assert (rollout.response_lengths == self.work.response_length).all()
        return rollout

    def fixed_rollout(self) -> Rollout:
        """Return the fixed tokens."""
        responses = tuple(self.work.fixed_responses())
        return Rollout(
            prompts=tuple(self.work.prompts(0)),
            responses=responses,
            finish_reasons=("length",) * len(responses),
            group_ids=np.arange(len(responses)),
        )

    def score(self, rollout: Rollout) -> Experience:
        """Judge and estimate."""
        judged = self.judge.measure(rollout)
        return estimate_experience(judged, PPO, self.hyperparameters, kl_coeff=self.hyperparameters.kl_coeff)

    def measured(self, scored: Experience) -> dict[str, np.ndarray]:
        """Return the arrays to compare."""
        names = ("old_logprobs", "entropy", "ref_logprobs", "values", "scores")
        arrays = {name: getattr(scored.rollout, name) for name in names}
        return {**arrays, "advantages": scored.advantages, "returns": scored.returns}

    def update(self, scored: Experience) -> dict[str, float]:
        """Update critic and policy once, then hand the weights to the engine."""
        metrics, updates = self.updater.update(scored, limit=1)
        assert updates == 1
        self.engine.load_weights(self.policy.weights(), self.policy.num_updates)
        return {f"{name}_gradient_norm": float(metrics[f"{name}/gradient_norm"].value) for name in ("critic", "policy")}

    def _collector(self) -> Collector:
        options = GenerationOptions(max_new_tokens=self.work.response_length)
        return Collector(self.engine, options, num_return_sequences=1, seed=self.work.seed)

    def _judge(self, reference: Any, reward: Any) -> Judge:
        rows = self.work.rows_per_batch
        return Judge(
            policy=self.policy.runner,
            reference=DenseRunner(reference),
            critic=self.critic.runner,
            scorer=ModelScorer(DenseRunner(reward), SameTokens(), rows_per_batch=rows),
            normalize=None,
            logprob_rows=rows,
            value_rows=rows,
            temperature=1.0,
        )

    def _hyperparameters(self) -> PPOHyperparameters:
        work = self.work
        return PPOHyperparameters(
            kl_coeff=work.kl_coeff,
            clip_range_score=work.clip_score,
            gamma=work.gamma,
            gae_lambda=work.gae_lambda,
            clip_range_ratio_low=work.clip_ratio,
            clip_range_ratio_high=work.clip_ratio,
            clip_range_value=work.clip_value,
        )

    def _updater(self) -> OnPolicyUpdater:
        plan = UpdatePlan(
            rows_per_update=self.work.num_prompts,
            rows_per_batch=self.work.rows_per_batch,
            num_epochs=1,
            seed=self.work.seed,
            temperature=1.0,
            ptx_coeff=0.0,
            with_entropy=False,
        )
        return OnPolicyUpdater(
            policy=self.policy,
            critic=self.critic,
            algorithm=PPO,
            hyperparameters=self.hyperparameters,
            plan=plan,
            next_ptx=None,
        )


if __name__ == "__main__":
    serve(lambda: PaddleSide(Path(sys.argv[1])))
