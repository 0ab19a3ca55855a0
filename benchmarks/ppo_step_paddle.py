"""The PPO step of ``ppo_step.py`` from the parts of this package, in the order of ``loops/on_policy.py``."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))

from alignment.device.host import prepare_host  # noqa: E402

HOST = prepare_host()  # before the first import of Paddle, which reads these settings once

import numpy as np  # noqa: E402
import paddle  # noqa: E402
from ppo_step_paddle_parts import Parts  # noqa: E402
from ppo_step_worker import serve  # noqa: E402

from alignment.algorithms.on_policy.ppo import PPO  # noqa: E402
from alignment.generation.fused.kernels import CPU_KERNELS  # noqa: E402
from alignment.ops.native.library import load_core  # noqa: E402
from alignment.records import Experience, Rollout  # noqa: E402
from alignment.rollout.experience import estimate_experience  # noqa: E402
from alignment.rollout.gate import LogprobGate  # noqa: E402


class PaddleSide:
    """See ``ppo_step_worker.Side``."""

    def __init__(self, folder: Path) -> None:
        self.parts = parts = Parts(folder)
        self.work, self.parsed = parts.work, parts.parsed
        self.obstacle = CPU_KERNELS.obstacle(parts.policy.runner.model.config)
        self.variants = {"plain": parts.rollouts(parts.eager())}
        self.variants["library"] = self.variants["plain"] if self.obstacle else parts.rollouts(parts.fused())
        self.engine, self.collector = self.variants["library"]
        self.judge, self.updater = parts.judge(), parts.updater()
        self.saves = True
        engine = self.parsed.engine
        self.gate = LogprobGate(
            limit=engine.logprob_gap_limit,
            action=engine.on_logprob_gap,
            weight_cap=self.parsed.on_policy.importance_weight_cap,
        )
        self._experience: Experience | None = None

    def use_variant(self, variant: str) -> None:
        """``library``: what the arguments say, by default compiled engine and operators where they run, shared
        prefixes, and no forward pass twice; ``plain``: none of these.
        """
        self.engine, self.collector = self.variants[variant]
        if self.saves != (variant == "library"):
            self.saves = not self.saves
            self.parts.choose_savings(plain=not self.saves)

    def describe(self) -> dict[str, str]:
        """Return versions and settings."""
        core = load_core()
        return {
            "paddle": paddle.__version__,
            "host": HOST,
            "alignment": f"eager engine ({self.obstacle})" if self.obstacle else f"fused engine, {core.isa}",
            "training operators": f"compiled, {core.isa}" if core else "Paddle's",
        }

    def rollout(self, step: int) -> Rollout:
        """Sample at temperature 1 from all tokens; new weights go into the engine first."""
        prompts = [{"input_ids": row, "raw_input": ""} for row in self.work.prompts(step)]
        version = self.parts.policy.num_updates
        with self.engine.ready(version):
            rollout = self.collector.collect(prompts, policy_version=version)
        assert (rollout.response_lengths == self.work.response_lengths).all()
        return rollout

    def fixed_rollout(self) -> Rollout:
        """Return the fixed tokens."""
        responses, answers = tuple(self.work.fixed_responses()), self.work.answers
        return Rollout(
            prompts=tuple(prompt for prompt in self.work.prompts(0) for _ in range(answers)),
            responses=responses,
            finish_reasons=("length",) * len(responses),
            group_ids=np.repeat(np.arange(self.work.num_prompts), answers),
        )

    def score(self, rollout: Rollout) -> Experience | Rollout:
        """Judge, compare the log-probs of tokens that an engine has sampled, and estimate.

        Where the critic's values are those of the update, the estimate waits for them.
        """
        waits, is_sampled = self.saves and self.parts.values_from_update, rollout.rollout_logprobs is not None
        check = self.parts.check if self.saves and is_sampled else None
        judge = replace(self.judge, check=check, critic=None if waits else self.judge.critic)
        judged = judge.measure(rollout)
        if is_sampled:
            judged, _ = self.gate.check(judged)
        return judged if waits else self._estimate(judged)

    def _estimate(self, judged: Rollout) -> Experience:
        numbers = self.parsed.algorithm
        return estimate_experience(judged, PPO, numbers, kl_coeff=numbers.kl_coeff)

    def measured(self, scored: Any) -> dict[str, np.ndarray]:
        """Return the arrays to compare."""
        scored = self._experience
        rollout, cells = scored.rollout, scored.rollout.response_tokens
        names = ("old_logprobs", "entropy", "ref_logprobs", "values")
        arrays = {name: getattr(rollout, name)[cells] for name in names}
        return {
            **arrays,
            "scores": rollout.scores,
            "advantages": scored.advantages[cells],
            "returns": scored.returns[cells],
        }

    def update(self, scored: Experience | Rollout) -> dict[str, float]:
        """Update critic and policy once."""
        learned = None
        if isinstance(scored, Rollout):
            without = scored.with_fields(values=np.zeros_like(scored.old_logprobs))
            learned = self.updater.learn_values(scored, self._estimate(without).rewards)
            scored = self._estimate(scored.with_fields(values=learned.values))
        self._experience = scored
        metrics, updates = self.updater.update(scored, limit=1, learned=learned)
        assert updates == 1
        return {f"{name}_gradient_norm": float(metrics[f"{name}/gradient_norm"].value) for name in ("critic", "policy")}


if __name__ == "__main__":
    serve(lambda: PaddleSide(Path(sys.argv[1])))
