"""The work of each task of ``alignment eval``."""

from __future__ import annotations

from alignment.arguments.parsed import Parsed
from alignment.runs.evaluations.pass_at_k import PassWork
from alignment.runs.evaluations.perplexity import PerplexityWork
from alignment.runs.evaluations.reward_accuracy import RewardAccuracyWork
from alignment.runs.evaluations.rouge import RougeWork
from alignment.runs.evaluations.win_rate import WinRateWork

EvalWork = PerplexityWork | RougeWork | RewardAccuracyWork | WinRateWork | PassWork
WORKS: dict[str, type[EvalWork]] = {
    "perplexity": PerplexityWork,
    "rouge": RougeWork,
    "reward_accuracy": RewardAccuracyWork,
    "win_rate": WinRateWork,
    "pass_at_k": PassWork,
}
"""Task to its work, with ``check``, ``rows`` and ``summarize``."""


def open_work(parsed: Parsed) -> EvalWork:
    """Return the work of the task that ``parsed`` names."""
    return WORKS[parsed.eval.task](parsed)
