"""The workloads of ``ppo_step.py``: what each is made of, which processes run it, and the targets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from ppo_step_pairs import PHASES as PAIR_PHASES
from ppo_step_pairs import PairWork
from ppo_step_work import PHASES, Work

FULL, OURS, RESPONSE, PLAIN = ("torch", "full"), ("paddle", "library"), ("torch", "response"), ("paddle", "plain")
"""Columns: (side, variant)."""


@dataclass(frozen=True)
class Case:
    """A workload."""

    title: str
    make: Callable[..., Any]
    """Makes the work of a model and a number of threads."""
    scripts: Mapping[str, str]
    """The file of each side."""
    phases: Sequence[str]
    columns: Sequence[tuple[str, str]]
    """In the order in which they take turns."""
    targets: Mapping[str, float]
    """Largest ratios to torch of the 110M model that issue 16 asks for."""
    describe: Callable[[Any], str]
    """Says the sizes in words."""


def _describe_rows(work: Work) -> str:
    if not work.is_ragged:
        return (
            f"{work.num_prompts} prompts x {work.prompt_length} + {work.response_length} tokens, {work.rows_per_batch} "
            "rows a pass"
        )
    prompts, responses = work.prompt_lengths, work.response_lengths
    return (
        f"{work.num_prompts} prompts x {work.answers} answers, log-normal lengths (prompts: median "
        f"{work.prompt_length}, mean {prompts.mean():.0f}, longest {prompts.max()}; answers: median "
        f"{work.response_length}, mean {responses.mean():.0f}, longest {responses.max()}), torch "
        f"{work.rows_per_batch} rows a pass"
    )


def _describe_pairs(work: PairWork) -> str:
    lengths = work.answer_lengths
    return (
        f"{work.num_pairs} pairs, prompts of {work.prompt_length} tokens, answers log-normal (median "
        f"{work.answer_length}, mean {lengths.mean():.0f}, longest {lengths.max()}), torch {work.pairs_per_batch} "
        "pairs a pass"
    )


_STEP = {"paddle": "ppo_step_paddle.py", "torch": "ppo_step_torch.py"}
_PAIRS = {"paddle": "ppo_step_pairs_paddle.py", "torch": "ppo_step_pairs_torch.py"}
_RAGGED = {"num_prompts": 16, "answers": 4, "prompt_length": 192, "response_length": 96, "is_ragged": True}


def _pairs(title: str, objective: str) -> Case:
    make = partial(PairWork, objective=objective)
    return Case(title, make, _PAIRS, PAIR_PHASES, (FULL, OURS, RESPONSE), {"step": 0.25}, _describe_pairs)


CASES: dict[str, Case] = {
    "a": Case(
        "a PPO step of equal rows",
        Work,
        _STEP,
        PHASES,
        (FULL, OURS, RESPONSE, PLAIN),
        {"rollout": 0.33, "scoring": 0.4, "update": 0.5, "total": 0.5},
        _describe_rows,
    ),
    "b": Case(
        "a PPO step of ragged rows",
        partial(Work, **_RAGGED),
        _STEP,
        PHASES,
        (FULL, OURS, RESPONSE),
        {"total": 0.2},
        _describe_rows,
    ),
    "c-dpo": _pairs("an update of DPO", "dpo"),
    "c-rm": _pairs("an update of a reward model", "rm"),
}
GROUPS = {"a": ("a",), "b": ("b",), "c": ("c-dpo", "c-rm")}
"""What ``--workloads`` names."""
