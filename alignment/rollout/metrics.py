"""Numbers that tell whether a rollout is healthy. All are averages over the rollout's valid rows and tokens."""

from __future__ import annotations

import numpy as np

from alignment.records import Experience, Rollout
from alignment.telemetry.metrics import Metric


def describe_experience(experience: Experience) -> dict[str, Metric]:
    """Return the metrics of one judged rollout; names under ``train/`` are those of the reference suite."""
    rollout = experience.rollout
    numbers = _rewards(experience) | _kl(rollout) | _lengths(rollout)
    if rollout.values is not None:
        numbers |= _critic(experience)
    extremes = {
        "train/max_generated_length": Metric(float(rollout.response_lengths.max()), "max"),
        "train/min_generated_length": Metric(float(rollout.response_lengths.min()), "min"),
    }
    if rollout.rollout_logprobs is not None:
        gap = np.abs(rollout.rollout_logprobs - rollout.old_logprobs) * rollout.response_mask
        numbers["rollout/logprob_gap_mean"] = float(gap.sum() / rollout.response_mask.sum())
        extremes["rollout/logprob_gap_max"] = Metric(float(gap.max()), "max")
    return {name: Metric(value) for name, value in numbers.items()} | extremes


def _rewards(experience: Experience) -> dict[str, float]:
    rollout = experience.rollout
    rows = np.ones(rollout.num_rows, bool) if rollout.valid is None else rollout.valid
    raw, scores = rollout.raw_scores[rows], rollout.scores[rows]
    kl_penalty = experience.rewards.sum(-1)[rows] - scores
    return {
        "train/reward": float(raw.mean()),
        "train/norm_reward": float(scores.mean()),
        "train/kl_reward": float(kl_penalty.mean()),
        "train/norm_reward_with_kl": float(experience.rewards.sum(-1)[rows].mean()),
        "reward/std": float(raw.std()),
        "reward/min": float(raw.min()),
        "reward/max": float(raw.max()),
        "reward/length_correlation": correlation(raw, rollout.response_lengths[rows]),
        "reward/masked_rows": float((~rows).sum()),
    }


def _kl(rollout: Rollout) -> dict[str, float]:
    mask = rollout.response_mask
    tokens = mask.sum()
    numbers = {"policy/entropy": float((rollout.entropy * mask).sum() / tokens)}
    if rollout.ref_logprobs is None:
        return numbers
    difference = (rollout.old_logprobs - rollout.ref_logprobs) * mask
    k3 = (np.exp(-difference) - 1 + difference) * mask
    return numbers | {
        "train/kl_divergence": float(difference.sum(-1).mean()),
        "kl/k1": float(difference.sum() / tokens),
        "kl/k2": float((0.5 * difference**2).sum() / tokens),
        "kl/k3": float(k3.sum() / tokens),
    }


def _lengths(rollout: Rollout) -> dict[str, float]:
    stopped = np.array([reason == "stop" for reason in rollout.finish_reasons])
    return {
        "train/mean_generated_length": float(rollout.response_lengths.mean()),
        "rollout/eos_rate": float(stopped.mean()),
        "rollout/prompt_length": float(rollout.prompt_lengths.mean()),
    }


def _critic(experience: Experience) -> dict[str, float]:
    rollout = experience.rollout
    on = rollout.response_mask > 0
    values, returns = rollout.values[on], experience.returns[on]
    spread = returns.var()
    return {
        "train/values": float(values.mean()),
        "train/returns": float(returns.mean()),
        "critic/explained_variance": float(1 - (returns - values).var() / spread) if spread > 0 else 0.0,
        "policy/advantage_mean": float(experience.advantages[on].mean()),
        "policy/advantage_std": float(experience.advantages[on].std()),
    }


def correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Return Pearson's correlation of two [N] arrays, 0 when one of them does not vary."""
    if len(x) < 2 or np.std(x) < 1e-12 or np.std(y) < 1e-12:
        return 0.0
    return float(np.corrcoef(x, y)[0, 1])
