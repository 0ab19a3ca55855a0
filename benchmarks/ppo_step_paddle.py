"""The PPO step of ``ppo_step.py`` from the parts of this package, put together as ``runs/on_policy/run.py`` does."""

from __future__ import annotations

import sys
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))

from alignment.device.host import prepare_host  # noqa: E402

HOST = prepare_host()  # before the first import of Paddle, which reads these settings once

import numpy as np  # noqa: E402
import paddle  # noqa: E402
from ppo_step_work import Work  # noqa: E402
from ppo_step_worker import serve  # noqa: E402

from alignment.algorithms.on_policy.ppo import PPO  # noqa: E402
from alignment.arguments.parsed import Parsed  # noqa: E402
from alignment.generation.eager.eager_engine import EagerEngine  # noqa: E402
from alignment.generation.engine import Engine, GenerationOptions  # noqa: E402
from alignment.generation.engine_placement import WHOLE_MODEL  # noqa: E402
from alignment.generation.fused.fused_engine import FusedEngine  # noqa: E402
from alignment.generation.fused.kernels import CPU_KERNELS  # noqa: E402
from alignment.loops.rollout_engine import RolloutEngine  # noqa: E402
from alignment.loops.updates import OnPolicyUpdater, UpdatePlan  # noqa: E402
from alignment.models.folders.hub import load_causal_lm, load_score_model  # noqa: E402
from alignment.ops.native.library import load_core  # noqa: E402
from alignment.parallel.initialise import initialise  # noqa: E402
from alignment.parallel.micro_batches import MicroBatches  # noqa: E402
from alignment.records import Experience, Rollout  # noqa: E402
from alignment.rollout.collector import Collector  # noqa: E402
from alignment.rollout.experience import estimate_experience  # noqa: E402
from alignment.rollout.gate import LogprobGate  # noqa: E402
from alignment.rollout.judge import Judge  # noqa: E402
from alignment.rollout.logprob_check import LogprobCheck  # noqa: E402
from alignment.rollout.rewards.retokenize import SameTokens  # noqa: E402
from alignment.rollout.rewards.scorers import ModelScorer  # noqa: E402
from alignment.runs.assembly import build_learner  # noqa: E402
from alignment.runs.launch import Launch  # noqa: E402
from alignment.runs.on_policy.algorithm import critic_training  # noqa: E402
from alignment.runs.on_policy.engines import fused_settings  # noqa: E402
from alignment.runs.on_policy.roles import freeze, load_critic  # noqa: E402
from alignment.runs.on_policy.savings import CHECKED_SHARE  # noqa: E402
from alignment.runs.placed import place_frozen, scoring_runner  # noqa: E402
from alignment.trainers.ppo.arguments import parse_ppo_arguments  # noqa: E402
from alignment.training.checkpoint import CheckpointStore  # noqa: E402

NATIVE_OPS = "alignment.ops.native.selection"
"""The switch of the compiled training operators, in versions that have them."""
GAP_LIMIT = 1e-3
"""Nats that 99 % of the sampled tokens' log-probs may differ between engine and trainer; above it the run stops."""


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
        "max_length": work.prompt_length + work.response_length,
        "max_dec_len": work.response_length,
        "top_p": 1.0,
        "per_device_prompt_batch_size": work.num_prompts,
        "per_device_train_batch_size": work.rows_per_batch,
        "gradient_accumulation_steps": work.num_prompts // work.rows_per_batch,
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
        "logprob_gap_limit": GAP_LIMIT,
        "on_logprob_gap": "stop",
    }
    return parse_ppo_arguments([word for key, value in values.items() for word in (f"--{key}", str(value))])


class PaddleSide:
    """See ``ppo_step_worker.Side``."""

    def __init__(self, folder: Path) -> None:
        self.work = Work.read(folder)
        self.parsed = parse_work(self.work, folder)
        launch = self._start(folder)
        policy = load_causal_lm(folder / "policy", dtype="float32")
        training, critic = self.parsed.training, load_critic(str(folder / "critic"))
        self.policy = build_learner(launch, "policy", policy, training, total_updates=1)
        self.critic = build_learner(launch, "critic", critic, critic_training(self.parsed), total_updates=1)
        self.obstacle = CPU_KERNELS.obstacle(policy.config)
        self.variants = {"plain": self._rollouts(EagerEngine(policy))}
        self.variants["library"] = self.variants["plain"] if self.obstacle else self._rollouts(self._fused(policy))
        self.engine, self.collector = self.variants["library"]
        self.judge = self._judge(launch)
        self.saves = True
        rows = -(-self.work.num_prompts // CHECKED_SHARE)
        self.check = LogprobCheck(num_rows=rows, limit=self.parsed.engine.logprob_gap_limit)
        engine = self.parsed.engine
        self.gate = LogprobGate(
            limit=engine.logprob_gap_limit,
            action=engine.on_logprob_gap,
            weight_cap=self.parsed.on_policy.importance_weight_cap,
        )
        self.hyperparameters = self.parsed.algorithm
        self.updater = self._updater()

    def use_variant(self, variant: str) -> None:
        """``library``: compiled engine and operators where they run, and no forward pass twice; ``plain``: eager
        engine, Paddle's operators.
        """
        self.saves = variant == "library"
        self.engine, self.collector = self.variants[variant]
        if find_spec(NATIVE_OPS):
            import_module(NATIVE_OPS).use_native_ops(variant == "library")

    def describe(self) -> dict[str, str]:
        """Return versions and settings."""
        core = load_core()
        return {
            "paddle": paddle.__version__,
            "host": HOST,
            "alignment": f"eager engine ({self.obstacle})" if self.obstacle else f"fused engine, {core.isa}",
            "training operators": f"compiled, {core.isa}" if core and find_spec(NATIVE_OPS) else "Paddle's",
        }

    def rollout(self, step: int) -> Rollout:
        """Sample at temperature 1 from all tokens; new weights go into the engine first."""
        prompts = [{"input_ids": row, "raw_input": ""} for row in self.work.prompts(step)]
        version = self.policy.num_updates
        with self.engine.ready(version):
            rollout = self.collector.collect(prompts, policy_version=version)
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

    def score(self, rollout: Rollout) -> Experience | Rollout:
        """Judge, compare the log-probs of tokens that an engine has sampled, and estimate.

        With savings the estimate waits for the critic's values of the update.
        """
        if rollout.rollout_logprobs is None:
            return self._estimate(self.judge.measure(rollout))
        saves = self.saves
        judge = replace(self.judge, critic=None, check=self.check) if saves else self.judge
        judged, _ = self.gate.check(judge.measure(rollout))
        return judged if saves else self._estimate(judged)

    def _estimate(self, judged: Rollout) -> Experience:
        return estimate_experience(judged, PPO, self.hyperparameters, kl_coeff=self.hyperparameters.kl_coeff)

    def measured(self, scored: Experience) -> dict[str, np.ndarray]:
        """Return the arrays to compare."""
        names = ("old_logprobs", "entropy", "ref_logprobs", "values", "scores")
        arrays = {name: getattr(scored.rollout, name) for name in names}
        return {**arrays, "advantages": scored.advantages, "returns": scored.returns}

    def update(self, scored: Experience | Rollout) -> dict[str, float]:
        """Update critic and policy once."""
        learned = None
        if isinstance(scored, Rollout):
            without = scored.with_fields(values=np.zeros_like(scored.old_logprobs))
            learned = self.updater.learn_values(scored, self._estimate(without).rewards)
            scored = self._estimate(scored.with_fields(values=learned.values))
        metrics, updates = self.updater.update(scored, limit=1, learned=learned)
        assert updates == 1
        return {f"{name}_gradient_norm": float(metrics[f"{name}/gradient_norm"].value) for name in ("critic", "policy")}

    def _start(self, folder: Path) -> Launch:
        topology = initialise(device="cpu", seed=self.work.seed)
        output_dir = folder / "run"
        store = CheckpointStore(output_dir, limit=None, topology=topology)
        return Launch(parsed=self.parsed, topology=topology, output_dir=output_dir, store=store, checkpoint=None)

    def _fused(self, policy: Any) -> FusedEngine:
        settings = fused_settings(self.parsed, policy.config, WHOLE_MODEL, rows=self.work.num_prompts, device="cpu")
        return FusedEngine(policy, settings)

    def _rollouts(self, engine: Engine) -> tuple[RolloutEngine, Collector]:
        options = GenerationOptions(max_new_tokens=self.work.response_length)
        collector = Collector(engine, options, num_return_sequences=1, seed=self.work.seed)
        return RolloutEngine(engine=engine, policy=self.policy), collector

    def _judge(self, launch: Launch) -> Judge:
        on_policy, rows = self.parsed.on_policy, self.work.rows_per_batch
        source = self.parsed.reward_source.reward_model_name_or_path
        reference = freeze(load_causal_lm(on_policy.actor_model_name_or_path, dtype="float32"))
        reward = place_frozen(
            "reward", freeze(load_score_model(source, dtype="float32")), launch.topology, offload=False
        )
        return Judge(
            policy=scoring_runner(self.policy),
            reference=place_frozen("reference", reference, launch.topology, offload=False),
            critic=scoring_runner(self.critic),
            scorer=ModelScorer(reward, SameTokens(), rows_per_batch=rows),
            normalize=None,
            logprob_rows=rows,
            value_rows=rows,
            temperature=self.parsed.generation.temperature,
        )

    def _updater(self) -> OnPolicyUpdater:
        plan = UpdatePlan(
            rows_per_update=self.work.num_prompts,
            micro_batches=MicroBatches(rows=self.work.rows_per_batch),
            num_epochs=self.parsed.on_policy.update_iters,
            seed=self.work.seed,
            temperature=self.parsed.generation.temperature,
            ptx_coeff=self.parsed.on_policy.ptx_coeff,
            with_entropy=self.parsed.algorithm.entropy_coeff > 0,
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
