"""How much the eager engine holds at once. Plain numbers: the planner counts with them, and needs no Paddle."""

from __future__ import annotations

from collections.abc import Sequence

PROMPT_TOKENS, DEVICE_PROMPT_TOKENS = 512, 8192
"""Prompts are computed in groups of about so many tokens on a CPU, where that keeps a group in the cache, and on a GPU
in half precision, where it fills the processors; it bounds memory.
"""
PAGE, MULTIPLE = 128, 16
"""Positions reserved beyond the longest row (more are added when they are full), and what capacities are multiples of.
"""


def prompt_tokens(*, on_device: bool) -> int:
    """Return how many tokens of prompts go through the layers together; ``on_device``: half precision on a GPU."""
    return DEVICE_PROMPT_TOKENS if on_device else PROMPT_TOKENS


def capacity(length: int, longest: int) -> int:
    """Return the positions a cache has for rows of ``length`` tokens that end with at most ``longest``."""
    return -(-min(length + PAGE, longest) // MULTIPLE) * MULTIPLE


def group_rows(lengths: Sequence[int], limit: int) -> list[range]:
    """Return consecutive ranges of rows with about ``limit`` tokens and at least one row each."""
    groups, first, tokens = [], 0, 0
    for row, length in enumerate(lengths):
        if row > first and tokens + length > limit:
            groups.append(range(first, row))
            first, tokens = row, 0
        tokens += length
    return [*groups, range(first, len(lengths))]
