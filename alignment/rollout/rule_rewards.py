"""Rule-based rewards: functions to name in ``reward_function`` or ``reward_sources``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from alignment.errors import RewardError

_SOLUTION = re.compile(r"#### (-?[0-9.,]+)")


def gsm8k(inputs: Sequence[Any], responses: Sequence[str], labels: Sequence[str | None]) -> list[float]:
    """Return 1 for each response whose last ``#### number`` matches its label's, else 0 (the rule of GSM8K).

    ``use_rule_reward: true`` selects it. A label may be a whole solution or just the number. RewardError if a row has
    no label with a number, since every answer would get 0.
    """
    return [
        float(_solution(response) == _expected(label, row))
        for row, (response, label) in enumerate(zip(responses, labels, strict=True))
    ]


def excess_words(
    inputs: Sequence[Any], responses: Sequence[str], labels: Sequence[str | None], *, limit: int
) -> list[float]:
    """Return minus the number of words that each response has beyond ``limit``."""
    return [-float(max(0, len(response.split()) - limit)) for response in responses]


def _solution(text: str) -> str | None:
    """Return the number after the last ``####`` without thousands separators; None if there is none."""
    found = _SOLUTION.findall(text)
    return _plain(found[-1]) if found else None


def _expected(label: str | None, row: int) -> str:
    number = None if label is None else _solution(label) or _plain(label)
    if number is None or not re.fullmatch(r"-?[0-9.]+", number):
        raise RewardError(
            f"row {row} has no answer to compare with, got {label!r:.80}; name the column of the answers (label_key)"
        )
    return number


def _plain(number: str) -> str:
    return number.strip().replace(",", "").removesuffix(".")
