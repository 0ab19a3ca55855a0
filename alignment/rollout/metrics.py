"""Metrics of a judged rollout.

Rewards, KL, entropy and values are averaged over valid rows and their tokens (entropy over the checked rows, where the
engine's log-probs are used); lengths over all rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from alignment.algorithms.kl import kl_metrics
from alignment.algorithms.masked import TokenMean
from alignment.algorithms.value_losses import explained_variance, pearson
from alignment.metrics import Metric
from alignment.ops.host_arrays import from_host
from alignment.records import Experience, Rollout
from alignment.rollout.variety import PairSets


@np.errstate(all="ignore")
def describe_experience(experience: Experience) -> dict[str, Metric]:
    """Return the metrics of one judged rollout; names under ``train/`` are the reference suite's."""
    rollout = experience.rollout
    metrics = _rewards(experience) | _lengths(rollout) | _advantages(experience) | dict(experience.metrics)
    metrics |= describe_sources(rollout) | _variety(rollout) | _drafts(rollout)
    metrics["policy/entropy"] = rollout.entropy[rollout.checked_tokens].mean()
    if rollout.ref_logprobs is not None:
        metrics |= _kl(rollout)
    if rollout.values is not None:
        metrics |= _critic(experience)
    if rollout.costs is not None:
        metrics |= _costs(experience)
    if rollout.expert_mismatch is not None:
        metrics["rollout/expert_mismatch"] = rollout.expert_mismatch
    complete = {name: m if isinstance(m, Metric) else Metric(m) for name, m in metrics.items()}
    return {name: m._replace(value=float(m.value)) for name, m in complete.items()}


def kl_by_row(rollout: Rollout) -> np.ndarray:
    """Return the KL (k1, nats) to the reference of each valid response, [valid rows].

    Tokens that another policy drew count by their importance weights.
    """
    weights = rollout.response_mask if rollout.importance_weights is None else rollout.importance_weights
    difference = (rollout.old_logprobs - rollout.ref_logprobs) * weights
    return difference.sum(-1)[rollout.valid_rows]


def _rewards(experience: Experience) -> dict[str, Any]:
    rollout = experience.rollout
    rows = rollout.valid_rows
    raw, scores, totals = rollout.raw_scores[rows], rollout.scores[rows], experience.rewards.sum(-1)[rows]
    lengths = rollout.response_lengths[rows].astype(np.float32)
    penalty = {} if experience.kl_rewards is None else {"train/kl_reward": experience.kl_rewards.sum(-1)[rows].mean()}
    return penalty | {
        "train/reward": raw.mean(),
        "train/norm_reward": scores.mean(),
        "train/norm_reward_with_kl": totals.mean(),
        "reward/std": raw.std(),
        "reward/min": Metric(float(raw.min()), "min"),
        "reward/max": Metric(float(raw.max()), "max"),
        "reward/length_correlation": pearson(raw, lengths),
        "reward/masked_rows": (~rows).sum(),
    }


def describe_sources(rollout: Rollout) -> dict[str, float]:
    """Return mean, spread and failures of each of several reward sources (over the rows it scored), terms and notes."""
    metrics = {}
    for source, scores in rollout.source_scores.items():
        scored = scores[np.isfinite(scores)]
        metrics[f"reward/{source}_mean"] = float(scored.mean())
        metrics[f"reward/{source}_std"] = float(scored.std())
        metrics[f"reward/{source}_failed_share"] = 1 - len(scored) / len(scores)
    valid = rollout.valid_rows
    metrics |= {f"reward/{term}_term": float(rows[valid].mean()) for term, rows in rollout.score_terms.items()}
    return metrics | {f"reward/{note}_share": float(rows[valid].mean()) for note, rows in rollout.score_notes.items()}


def _kl(rollout: Rollout) -> dict[str, Any]:
    mask = rollout.response_mask
    mean = TokenMean(from_host(mask), float(mask.sum()))
    weights = None if rollout.importance_weights is None else from_host(rollout.importance_weights)
    logprobs = from_host(rollout.old_logprobs), from_host(rollout.ref_logprobs)
    estimates = kl_metrics(*logprobs, mean=mean, weights=weights)
    return {"train/kl_divergence": kl_by_row(rollout).mean(), **estimates}


def _lengths(rollout: Rollout) -> dict[str, Any]:
    lengths = rollout.response_lengths
    return {
        "train/mean_generated_length": lengths.mean(),
        "train/max_generated_length": Metric(float(lengths.max()), "max"),
        "train/min_generated_length": Metric(float(lengths.min()), "min"),
        "rollout/eos_rate": np.mean([reason == "stop" for reason in rollout.finish_reasons]),
        "rollout/prompt_length": rollout.prompt_lengths.mean(),
    }


def _variety(rollout: Rollout) -> dict[str, Any]:
    pairs = PairSets.of(rollout.responses)
    shared, repeated = pairs.overlap(rollout.group_ids), {"rollout/repetition": pairs.repetition()}
    return repeated if shared is None else repeated | {"rollout/overlap": shared}


def _drafts(rollout: Rollout) -> dict[str, Any]:
    """Return the share of drafted tokens that were right, and the tokens that a response got with a pass."""
    if rollout.drafted is None:
        return {}
    tokens, drafted, accepted = (int(x.sum()) for x in (rollout.response_lengths, rollout.drafted, rollout.accepted))
    return {
        "rollout/drafted_tokens": drafted,
        "rollout/accepted_drafts": accepted / drafted if drafted else 0.0,
        "rollout/tokens_per_pass": tokens / (tokens - accepted),
    }


def _advantages(experience: Experience) -> dict[str, float]:
    on = experience.rollout.response_mask > 0
    advantages = experience.advantages[on]
    return {"policy/advantage_mean": advantages.mean(), "policy/advantage_std": advantages.std()}


def _critic(experience: Experience) -> dict[str, Any]:
    rollout = experience.rollout
    return {
        "train/values": _token_mean(rollout.values, rollout),
        "train/returns": _token_mean(experience.returns, rollout),
        "critic/explained_variance": explained_variance(rollout.values, experience.returns, mask=rollout.response_mask),
    }


def _costs(experience: Experience) -> dict[str, Any]:
    rollout = experience.rollout
    return cost_metrics(rollout, "train") | {
        "train/norm_cost": rollout.costs[rollout.valid_rows].mean(),
        "train/cost_values": _token_mean(rollout.cost_values, rollout),
        "train/cost_returns": _token_mean(experience.cost_returns, rollout),
        "cost_critic/explained_variance": explained_variance(
            rollout.cost_values, experience.cost_returns, mask=rollout.response_mask
        ),
    }


def cost_metrics(rollout: Rollout, phase: str) -> dict[str, float]:
    """Return ``PHASE/cost``, the mean raw cost, and ``PHASE/unsafe_rate``, the share of responses with a cost above 0.

    The cost model's zero is the border between safe and unsafe answers.
    """
    costs = rollout.raw_costs[rollout.valid_rows]
    return {f"{phase}/cost": float(costs.mean()), f"{phase}/unsafe_rate": float((costs > 0).mean())}


def _token_mean(grid: np.ndarray, rollout: Rollout) -> float:
    """Return the average of ``grid`` [N, R] over the response tokens of valid rows."""
    mask = rollout.response_mask
    return float((grid * mask).sum() / mask.sum())
