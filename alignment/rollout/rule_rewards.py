"""Rule-based rewards: functions to name in ``reward_function`` or ``reward_sources``."""

from __future__ import annotations

import dataclasses
import json
import re
import secrets
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

from alignment.errors import RewardError
from alignment.registry import near_matches
from alignment.rollout.rewards.answers import final_number
from alignment.rollout.rewards.sandbox import Limits, Ran, run_all

_BLOCK = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)```", re.DOTALL | re.IGNORECASE)
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


def numbers(
    inputs: Sequence[Any], responses: Sequence[str], labels: Sequence[str | None], *, tolerance: float = 0.0
) -> dict[str, list[float]]:
    """Return 1 for each response whose final number equals its label's, else 0 (``rewards.answers.final_number``).

    ``tolerance`` is the allowed distance relative to the label. ``no_answer`` is 1 where a response has no number.
    RewardError if a row has no label with a number.
    """
    found = [final_number(response) for response in responses]
    expected = [_expected_number(label, row) for row, label in enumerate(labels)]
    return {
        "score": [
            float(number is not None and abs(number - wanted) <= Fraction(tolerance) * abs(wanted))
            for number, wanted in zip(found, expected, strict=True)
        ],
        "no_answer": [float(number is None) for number in found],
    }


def code(
    inputs: Sequence[Any],
    responses: Sequence[str],
    labels: Sequence[str | None],
    *,
    partial: bool = False,
    processes: int = 2,
    **limits: Any,
) -> dict[str, list[float]]:
    """Return 1 for each response whose Python passes all tests of its label, else 0 (``partial``: the share passed).

    The program is the last fenced block of the response, or all of it. A label is Python with asserts that run after
    it, or JSON ``{"inputs": [...], "outputs": [...]}`` of standard input and output. ``limits`` are those of
    ``sandbox.Limits``. ``timeout`` and ``memory`` are 1 where a test ran out of them.
    """
    tests = [_tests_of(label, row) for row, label in enumerate(labels)]
    programs = [_program_of(response) for response in responses]
    jobs = [
        (f"{program}\n{test.source}", test.given) for program, row in zip(programs, tests, strict=True) for test in row
    ]
    ran = iter(run_all(jobs, _limits(limits), processes=processes))
    results = [[(test, next(ran)) for test in row] for row in tests]
    passed = [sum(test.passes(one) for test, one in row) / len(row) for row in results]
    return {
        "score": passed if partial else [float(share == 1) for share in passed],
        "timeout": [float(any(one.timed_out for _, one in row)) for row in results],
        "memory": [float(any(one.out_of_memory for _, one in row)) for row in results],
    }


class _Test(NamedTuple):
    """One test of a program."""

    source: str
    """Python that runs after the program."""
    given: str
    expected: str
    """Standard output, or the last line of it after asserts, which a program that exits before them does not write."""
    is_whole: bool
    """Whether ``expected`` is the whole output."""

    def passes(self, ran: Ran) -> bool:
        """Tell whether the program passed; blanks at the ends of lines and of the text do not count."""
        expected = _lines(self.expected)
        return ran.is_ok and _lines(ran.output)[0 if self.is_whole else -len(expected) :] == expected


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().splitlines()]


def _program_of(response: str) -> str:
    blocks = _BLOCK.findall(response)
    return blocks[-1] if blocks else response


def _tests_of(label: str | None, row: int) -> list[_Test]:
    """Return the tests in a label; RewardError if there are none."""
    if label is None or not label.strip():
        raise RewardError(f"row {row} has no tests, got {label!r}; name the column of the tests (label_key)")
    if not label.lstrip().startswith("{"):
        end = secrets.token_hex(16)
        return [_Test(f'{label}\nprint("\\n{end}")\n', "", end, is_whole=False)]
    try:
        written = json.loads(label)
        pairs = list(zip(written["inputs"], written["outputs"], strict=True))
    except (ValueError, KeyError, TypeError) as error:
        raise RewardError(
            f'row {row} needs tests as {{"inputs": [...], "outputs": [...]}} of equal length, got {label!r:.80} '
            f"({type(error).__name__}: {error})"
        ) from error
    if not pairs:
        raise RewardError(f"row {row} has no tests: its inputs are empty")
    return [_Test("", str(given), str(expected), is_whole=True) for given, expected in pairs]


def _limits(given: Mapping[str, Any]) -> Limits:
    known = [item.name for item in dataclasses.fields(Limits)]
    for name, value in given.items():
        if name not in known:
            raise RewardError(f"unknown option {name!r}{near_matches(name, known)} (allowed: {', '.join(known)})")
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0:
            raise RewardError(f"{name} must be a number above 0, got {value!r}")
    return Limits(**{name: value if name == "wall_seconds" else int(value) for name, value in given.items()})


def _expected_number(label: str | None, row: int) -> Fraction:
    number = None if label is None else final_number(label)
    if number is None:
        raise RewardError(
            f"row {row} has no number to compare with, got {label!r:.80}; name the column of the answers (label_key)"
        )
    return number


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
