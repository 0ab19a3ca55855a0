"""Evaluation of a policy on held-out prompts."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from alignment.data.raw.conversation import shown_text
from alignment.generation.engine import GenerationOptions
from alignment.loops.rollout_engine import RolloutEngine
from alignment.metrics import GREEDY
from alignment.records import Rollout
from alignment.rollout.collector import Collector
from alignment.rollout.judge import Judge
from alignment.rollout.metrics import cost_metrics, describe_sources, kl_by_row
from alignment.rollout.rewards.scorers import Scorer
from alignment.telemetry.tables import print_table

Evaluation = tuple[dict[str, float], list[dict[str, Any]]]
"""Metrics, and sample rows for the table and the report."""

NUM_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class PromptEvaluation:
    """Generates and scores one response per held-out prompt, with the same random numbers at every call."""

    prompts: Sequence[dict[str, Any]]
    engine: RolloutEngine
    version: Callable[[], int]
    """Returns the number of updates made so far, the version of the weights."""
    options: GenerationOptions
    rows_per_call: int
    """Prompts per call of the engine."""
    judge: Judge
    decode: Callable[[np.ndarray], str]
    seed: int
    judges: Mapping[str, Scorer] = field(default_factory=dict)
    """Second judges by name, which score the same responses."""
    with_greedy: bool = False
    """Whether reward and judges also score a greedy response to each prompt."""

    def __call__(self) -> Evaluation:
        """Return ``eval/`` metrics and one row per prompt; print the first rows."""
        collector = Collector(
            self.engine.engine, self.options, num_return_sequences=1, seed=self.seed, rows_per_call=self.rows_per_call
        )
        version = self.version()
        with self.engine.ready(version):
            rollout = collector.collect(self.prompts, policy_version=version)
            greedy = collector.collect_greedy(self.prompts, policy_version=version) if self.with_greedy else None
        rollout = self.judge.measure(rollout)
        rows = sample_rows(rollout, self.decode)
        metrics = self._metrics(rollout) | self._ask(self.judges, rollout, rows)
        if greedy is not None:
            metrics |= self._judge_greedy(greedy, rows)
        print_table("evaluation", ["prompt", "response", "score"], [list(r.values())[:3] for r in rows[:NUM_SHOWN]])
        return metrics, rows

    def _judge_greedy(self, greedy: Rollout, rows: list[dict[str, Any]]) -> dict[str, float]:
        """Return the metrics of the responses ``greedy``; add them and their scores to ``rows``."""
        for row, response in zip(rows, greedy.responses, strict=True):
            row[f"{GREEDY}response"] = self.decode(response)
        return self._ask({"reward": self.judge.scorer, **self.judges}, greedy, rows, prefix=GREEDY)

    def _ask(
        self, judges: Mapping[str, Scorer], rollout: Rollout, rows: list[dict[str, Any]], *, prefix: str = ""
    ) -> dict[str, float]:
        """Return mean and spread of each judge over the rows that it could score, and the share of the others; add its
        scores to ``rows``.
        """
        metrics = {}
        for name, scores in [(prefix + name, judge.score(rollout)) for name, judge in judges.items()]:
            valid = np.ones(rollout.num_rows, bool) if scores.valid is None else scores.valid
            for row, score, is_valid in zip(rows, scores.values, valid, strict=True):
                row[name] = float(score) if is_valid else None
            metrics |= _mean_and_spread(name, scores.values[valid])
            metrics[f"eval/{name}_failed_share"] = float(1 - valid.mean())
        return metrics

    @np.errstate(all="ignore")  # the loop refuses metrics that are not finite
    def _metrics(self, rollout: Rollout) -> dict[str, float]:
        stopped = [reason == "stop" for reason in rollout.finish_reasons]
        scores = rollout.raw_scores[rollout.valid_rows]
        metrics = {
            "eval/reward": float(scores.mean()),
            "eval/reward_std": float(scores.std()),
            "eval/masked_rows": float((~rollout.valid_rows).sum()),
            "eval/mean_generated_length": float(rollout.response_lengths.mean()),
            "eval/eos_rate": float(np.mean(stopped)),
        }
        metrics |= {f"eval/{name}": value for name, value in describe_sources(rollout).items()}
        if rollout.ref_logprobs is not None:
            metrics["eval/kl_divergence"] = float(kl_by_row(rollout).mean())
        return metrics | ({} if rollout.raw_costs is None else cost_metrics(rollout, "eval"))


@np.errstate(all="ignore")  # the loop refuses metrics that are not finite
def _mean_and_spread(name: str, values: np.ndarray) -> dict[str, float]:
    return {f"eval/{name}": float(values.mean()), f"eval/{name}_std": float(values.std())}


def sample_rows(
    rollout: Rollout, decode: Callable[[np.ndarray], str], *, limit: int | None = None
) -> list[dict[str, Any]]:
    """Return texts and raw scores (None if scoring failed) of the first ``limit`` rows of a judged rollout."""
    columns = zip(
        rollout.inputs,
        rollout.responses,
        rollout.raw_scores,
        rollout.valid_rows,
        rollout.finish_reasons,
        strict=True,
    )
    return [
        {
            "prompt": shown_text(raw),
            "response": decode(response),
            "score": float(score) if is_valid else None,
            "finish_reason": reason,
        }
        for raw, response, score, is_valid, reason in itertools.islice(columns, limit)
    ]
