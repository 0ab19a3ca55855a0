"""The passes of each column of ``ppo_step.py`` by phase, from the lengths of the workload's rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from ppo_step_flops import FORWARD, TRAINING, Family, Pass, Rows, padded, shared
from ppo_step_pairs import Pair, PairWork
from ppo_step_work import Work

BUDGET = 4096
"""Tokens of our micro-batches of ragged rows."""
CHECKED_SHARE = 16
Passes = dict[str, list[Pass]]
"""By phase."""


def passes_of(work: Work | PairWork) -> dict[str, Passes]:
    """Return the passes by column (``minimum``, or a column of the benchmark) and phase."""
    return _pair_passes(work) if isinstance(work, PairWork) else _ppo_passes(work)


def _families(work: Work) -> list[Family]:
    answers = work.response_lengths.reshape(work.num_prompts, work.answers).tolist()
    return [Family(prompt, tuple(own)) for prompt, own in zip(work.prompt_lengths.tolist(), answers, strict=True)]


def _ppo_passes(work: Work) -> dict[str, Passes]:
    families, steps = _families(work), int(work.response_lengths.max())
    least, fused = shared(families), shared(families, reads=steps)
    micro = -(-least.tokens // BUDGET) if work.is_ragged else work.num_rows // work.rows_per_batch
    ours, scored = shared(families, reads=micro), shared(families, reads=work.num_rows // work.rows_per_batch)
    ends, rated = shared(families, ends=True), shared(families, ends=True, reads=scored.reads)
    checked = _checked(work)
    rollout = [Pass(fused, FORWARD, True, decodes=True)]
    found = {
        "minimum": {
            "rollout": rollout,
            "scoring": [Pass(least, FORWARD, True), Pass(ends, FORWARD, False)],
            "update": [Pass(least, TRAINING, False), Pass(least, TRAINING, True)],
        },
        "paddle/library": {
            "rollout": rollout,
            "scoring": [Pass(checked, FORWARD, True), Pass(scored, FORWARD, True), Pass(rated, FORWARD, False)],
            "update": [Pass(ours, TRAINING, False), Pass(ours, TRAINING, True)],
        },
    }
    for column, rows in _torch_rows(work).items():
        found[column] = {
            "rollout": [_generated(work, is_sorted=column == "torch/response")],
            "scoring": [Pass(rows, FORWARD, True)] * 2 + [Pass(rows, FORWARD, False)] * 2,
            "update": [Pass(rows, TRAINING, False), Pass(rows, TRAINING, True)],
        }
    return found


def _checked(work: Work) -> Rows:
    """Return the rows whose engine's log-probs are checked; they share nothing, being far apart."""
    count = -(-work.num_rows // CHECKED_SHARE)
    prompts, responses = np.repeat(work.prompt_lengths, work.answers).tolist(), work.response_lengths.tolist()
    chosen = [i * work.num_rows // count for i in range(count)]
    return shared([Family(prompts[i], (responses[i],)) for i in chosen], reads=-(-count // work.rows_per_batch))


def _torch_rows(work: Work) -> dict[str, Rows]:
    prompts = np.repeat(work.prompt_lengths, work.answers).tolist()
    rows, size = list(zip(prompts, work.response_lengths.tolist(), strict=True)), work.rows_per_batch
    longest = (max(prompts), int(work.response_lengths.max()))
    full = padded(_cut(rows, size), width=sum(longest), is_causal=not work.is_ragged)
    full = Rows(full.tokens, full.pairs, full.tokens, full.reads)  # logits of every position
    return {"torch/full": full, "torch/response": padded(_cut(sorted(rows, key=sum), size))}


def _generated(work: Work, *, is_sorted: bool, rows_per_call: int = 16) -> Pass:
    """Return the pass of ``generate``: every call is padded to its longest prompt and answer."""
    answers = work.response_lengths.reshape(work.num_prompts, work.answers).max(axis=1).tolist()
    prompts = list(zip(work.prompt_lengths.tolist(), answers, strict=True))
    if is_sorted and work.is_ragged:
        prompts.sort()
    count = rows_per_call // work.answers
    calls = [Family(max(p for p, _ in call), (max(a for _, a in call),)) for call in _cut(prompts, count)]
    # Rows of a call share nothing, and the last layer computes all tokens of a prompt.
    each = [shared([call] * (min(count, work.num_prompts) * work.answers)) for call in calls]
    steps = sum(call.answers[0] for call in calls)
    tokens, pairs, targets = (sum(getattr(rows, name) for rows in each) for name in ("tokens", "pairs", "targets"))
    return Pass(Rows(tokens, pairs, targets, steps), FORWARD, True, decodes=True)


def call_rows(work: Work, prompts: Sequence[int]) -> Rows:
    """Return what a call of ``generate`` for the ``prompts`` (their numbers) computes: every row is as long as the
    longest prompt and answer, and rows share nothing.
    """
    answers = work.response_lengths.reshape(-1, work.answers)[prompts]
    family = Family(int(work.prompt_lengths[prompts].max()), (int(answers.max()),))
    return shared([family] * answers.size)


def pair_rows(pairs: Sequence[Pair], *, is_causal: bool) -> Rows:
    """Return what a micro-batch of ``pairs`` computes: all answers padded to the longest row, each with its prompt."""
    rows = [(len(pair.prompt), len(answer)) for pair in pairs for answer in (pair.better, pair.worse)]
    return padded([rows], is_causal=is_causal)


def _pair_passes(work: PairWork) -> dict[str, Passes]:
    is_dpo = work.objective == "dpo"
    lengths = work.answer_lengths.tolist()
    families = [Family(work.prompt_length, tuple(own)) for own in lengths]
    least = shared(families, ends=not is_dpo)
    columns = {"minimum": least, "paddle/library": replace(least, reads=-(-least.tokens // BUDGET))}
    for column, pairs in (("torch/full", lengths), ("torch/response", sorted(lengths, key=max))):
        batches = [[(work.prompt_length, a) for own in part for a in own] for part in _cut(pairs, work.pairs_per_batch)]
        rows = padded(batches, is_causal=column == "torch/response")
        every = rows.tokens if column == "torch/full" else rows.targets
        columns[column] = Rows(rows.tokens, rows.pairs, every, rows.reads)
    return {
        column: {"step": [Pass(rows, FORWARD, True)] * is_dpo + [Pass(rows, TRAINING, is_dpo)]}
        for column, rows in columns.items()
    }


def _cut(rows: Sequence, size: int) -> list:
    return [rows[first : first + size] for first in range(0, len(rows), size)]
