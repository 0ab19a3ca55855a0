"""Divide global batch sizes, as in run_rl.py's YAML files, among the processes of a layout."""

from __future__ import annotations

from alignment.arguments.parsed import Parsed
from alignment.arguments.parser import Values
from alignment.arguments.validate_on_policy import check_batches
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
        share = _divide(prompts, batch_ranks, f"global_batch_size={prompts}", ranks)
        parsed = parsed.replace("on_policy", per_device_prompt_batch_size=share, global_batch_size=-1)
    if mini > 0:
        per_step = batch_ranks * training.per_device_train_batch_size
        steps = _divide(
            mini * on_policy.num_return_sequences,
            per_step,
            f"global_mini_batch_size * num_return_sequences = {mini} * {on_policy.num_return_sequences}",
            f"{ranks} * per_device_train_batch_size = {per_step}",
        )
        parsed = parsed.replace("training", gradient_accumulation_steps=steps)
        parsed = parsed.replace("on_policy", global_mini_batch_size=-1)
    problems = list(check_batches(Values(parsed.as_dict(), parsed.origins)))
    if problems:
        raise ArgumentError("\n  ".join(["global_batch_size and global_mini_batch_size do not fit:", *problems]))
    return parsed


def _divide(number: int, parts: int, what: str, among: str) -> int:
    whole, rest = divmod(number, parts)
    if rest:
        raise ArgumentError(f"{what} cannot be shared evenly among {among}: give a multiple of {parts}")
    return whole
