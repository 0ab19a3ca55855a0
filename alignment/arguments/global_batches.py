"""Divide global batch sizes, as in run_rl.py's YAML files, among the processes of a layout."""

from __future__ import annotations

import math

from alignment.arguments.parsed import Parsed
from alignment.arguments.parser import Values
from alignment.arguments.validate_on_policy import fits, nearest
from alignment.errors import ArgumentError


def share_global_batches(parsed: Parsed, *, batch_ranks: int) -> Parsed:
    """Return ``parsed`` with per-process sizes in place of global ones.

    ``batch_ranks`` is the number of processes with different rows. Prompts per process: ``global_batch_size /
    batch_ranks``; micro-batches per update: ``global_mini_batch_size * num_return_sequences / (batch_ranks *
    per_device_train_batch_size)``. ArgumentError if a division leaves a remainder.
    """
    if "on_policy" not in parsed.groups:
        return parsed
    on_policy, training = parsed.on_policy, parsed.training
    prompts, mini = on_policy.global_batch_size, on_policy.global_mini_batch_size
    ranks = f"{batch_ranks} process(es) with rows of their own"
    if prompts > 0:
        share = _divide(prompts, batch_ranks, "global_batch_size", f"={prompts}", ranks)
        parsed = parsed.replace("on_policy", per_device_prompt_batch_size=share, global_batch_size=-1)
    if mini > 0:
        per_step = batch_ranks * training.per_device_train_batch_size
        steps = _divide(
            mini * on_policy.num_return_sequences,
            per_step,
            "global_mini_batch_size",
            f" * num_return_sequences = {mini} * {on_policy.num_return_sequences}",
            f"{ranks} * per_device_train_batch_size = {per_step}",
            samples=on_policy.num_return_sequences,
        )
        parsed = parsed.replace("training", gradient_accumulation_steps=steps)
        parsed = parsed.replace("on_policy", global_mini_batch_size=-1)
    if prompts > 0 or mini > 0:
        _check_rows(parsed, prompts, mini, batch_ranks)
    return parsed


def _check_rows(parsed: Parsed, prompts: int, mini: int, batch_ranks: int) -> None:
    """ArgumentError, which says what works, if a rollout of all processes is no multiple of an update nor the reverse.

    ``parsed`` has the shares of a process; ``prompts`` and ``mini`` are the sizes that were given (-1: not given).
    """
    on_policy, training = parsed.on_policy, parsed.training
    samples, micro = on_policy.num_return_sequences, training.per_device_train_batch_size
    own, steps = on_policy.per_device_prompt_batch_size, training.gradient_accumulation_steps
    rows, update = own * samples * batch_ranks, micro * steps * batch_ranks
    if fits(rows, update):
        return
    rollout = f"global_batch_size * num_return_sequences = {prompts} * {samples}"
    if prompts < 0:
        rollout = f"per_device_prompt_batch_size * num_return_sequences * processes = {own} * {samples} * {batch_ranks}"
    updated = f"global_mini_batch_size * num_return_sequences = {mini} * {samples}"
    if mini < 0:
        factors = "per_device_train_batch_size * gradient_accumulation_steps * processes"
        updated = f"{factors} = {micro} * {steps} * {batch_ranks}"
    minis = nearest(max(1, round(update / samples)))
    options = {
        "global_batch_size": [
            p for p in nearest(own * batch_ranks) if not p % batch_ranks and fits(p * samples, update)
        ],
        "global_mini_batch_size": [
            m for m in minis if not m * samples % (batch_ranks * micro) and fits(rows, m * samples)
        ],
    }
    words = [f"{key}={' or '.join(map(str, found[:3]))}" for key, found in options.items() if found]
    keys = ("num_return_sequences", "per_device_train_batch_size", "per_device_prompt_batch_size", *options)
    preset = Values(parsed.as_dict(), parsed.origins).preset_note(*keys)
    raise ArgumentError(
        f"{rollout} = {rows} rows per rollout, and {updated} = {update} rows per update: neither divides the other. "
        f"Values that work: {'; '.join(words) or 'none near these'}{preset}"
    )


def _divide(number: int, parts: int, key: str, what: str, among: str, *, samples: int = 1) -> int:
    """Return the share of each of ``parts``; ``number`` is ``samples`` times the value of ``key``."""
    whole, rest = divmod(number, parts)
    if rest:
        raise ArgumentError(
            f"{key}{what} cannot be shared evenly among {among}: give a {key} that is a multiple of "
            f"{parts // math.gcd(parts, samples)}"
        )
    return whole
