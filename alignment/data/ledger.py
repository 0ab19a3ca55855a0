"""Account for every row that was dropped or changed, by dataset and reason."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from alignment.errors import DataError

DROPPED_OVERLONG = "dropped_overlong"
TRUNCATED_LEFT = "truncated_left"
TRUNCATED_RIGHT = "truncated_right"
DUPLICATE_PROMPT = "duplicate_prompt"
REPEATED_PROMPT = "repeated_prompt"
TIED_PAIR = "tied_pair"
IDENTICAL_PAIR = "identical_pair"
CONTRADICTORY_SAFETY = "contradictory_safety"
EMPTY_PROMPT = "empty_prompt"
EMPTY_ANSWER = "empty_answer"
SHORT_ANSWER = "short_answer"
NO_TARGET = "no_turn_to_train_on"
BOUNDARY_RETOKENIZED = "boundary_retokenized"
LAST_BATCH = "dropped_last_batch"
NULL_FIELD = "null_field"
NO_ATTRIBUTE = "no_attribute_has_a_value"
BROKEN_TEXT = "broken_text"
DIFFERENT_PROMPTS = "different_prompts"
BROKEN_DIALOGUE = "broken_dialogue"
UNDESIRABLE = "undesirable_answer"
UNKNOWN_TOKENS = "unknown_tokens"
UNKNOWN_DIFFERENCE = "unknown_difference"
BELOW_MIN_REWARD = "below_min_reward"

BAD_ROWS = frozenset({
    TIED_PAIR, IDENTICAL_PAIR, CONTRADICTORY_SAFETY, EMPTY_PROMPT, EMPTY_ANSWER, SHORT_ANSWER, NO_TARGET, NULL_FIELD,
    NO_ATTRIBUTE, BROKEN_TEXT, DIFFERENT_PROMPTS, BROKEN_DIALOGUE, UNKNOWN_DIFFERENCE,
})  # fmt: skip
"""Reasons to which ``on_bad_row`` applies."""
KEPT_REASONS = frozenset({TRUNCATED_LEFT, TRUNCATED_RIGHT, BOUNDARY_RETOKENIZED, UNKNOWN_TOKENS, REPEATED_PROMPT})
"""Reasons under which a row is changed and used; under every other reason it is dropped."""
REASONS = BAD_ROWS | KEPT_REASONS | {DROPPED_OVERLONG, DUPLICATE_PROMPT, LAST_BATCH, UNDESIRABLE, BELOW_MIN_REWARD}

_NUM_EXAMPLES = 3


class BadRow(DataError):
    """A row that cannot be used; ``on_bad_row`` decides whether it is dropped or an error."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        assert reason in BAD_ROWS, reason
        self.reason = reason


class LedgerRow(NamedTuple):
    """One line of the account."""

    dataset: str
    reason: str
    effect: str
    """``dropped`` or ``kept``."""
    count: int
    examples: tuple[int, ...]
    """Indices of the first few rows in the raw dataset."""


@dataclass
class _Count:
    count: int = 0
    examples: list[int] = field(default_factory=list)


class Ledger:
    """Counts by (dataset, reason) with the first few row indices, and rows selected and used by dataset."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], _Count] = {}
        self._sizes: dict[str, dict[str, int]] = {}
        self._notes: dict[str, list[str]] = {}

    def add_note(self, dataset: str, note: str) -> None:
        """Keep a line about how ``dataset`` was read, once."""
        lines = self._notes.setdefault(dataset, [])
        if note not in lines:
            lines.append(note)

    def notes(self) -> list[tuple[str, str]]:
        """Return (dataset, line) for every note, in order."""
        return [(dataset, line) for dataset, lines in self._notes.items() for line in lines]

    def add(self, dataset: str, reason: str, index: int | None = None, *, count: int = 1) -> None:
        """Add ``count`` rows of ``dataset`` to ``reason``; ``index`` is kept as an example."""
        assert reason in REASONS, reason
        entry = self._counts.setdefault((dataset, reason), _Count())
        entry.count += count
        if index is not None and index not in entry.examples and len(entry.examples) < _NUM_EXAMPLES:
            entry.examples.append(index)

    def add_size(self, dataset: str, *, selected: int, used: int) -> None:
        """Add to the numbers of rows selected from ``dataset`` by the mixing, and used after all filters."""
        sizes = self._sizes.setdefault(dataset, {"selected": 0, "used": 0})
        sizes["selected"] += selected
        sizes["used"] += used

    def rows(self) -> list[LedgerRow]:
        """Return one entry per (dataset, reason), in order of first occurrence."""
        return [
            LedgerRow(dataset, reason, "kept" if reason in KEPT_REASONS else "dropped", c.count, tuple(c.examples))
            for (dataset, reason), c in self._counts.items()
        ]

    def total(self, reason: str | None = None) -> int:
        """Return the count of ``reason`` over all datasets; None: of all reasons."""
        assert reason is None or reason in REASONS, reason
        return sum(row.count for row in self.rows() if reason in (None, row.reason))

    def sizes(self) -> Iterator[tuple[str, Mapping[str, int]]]:
        """Yield (dataset, {"selected", "used"})."""
        yield from self._sizes.items()

    def as_dict(self) -> dict[str, Any]:
        """Return JSON data: ``datasets`` (rows selected and used), ``notes`` and ``rows`` (the account)."""
        return {
            "datasets": {dataset: dict(sizes) for dataset, sizes in self._sizes.items()},
            "notes": {dataset: list(lines) for dataset, lines in self._notes.items()},
            "rows": [{**row._asdict(), "examples": list(row.examples)} for row in self.rows()],
        }

    def restore(self, account: Mapping[str, Any]) -> None:
        """Take over the counts of ``account``, made by ``as_dict``; notes stay as they are."""
        self._sizes = {dataset: dict(sizes) for dataset, sizes in account["datasets"].items()}
        self._counts = {
            (row["dataset"], row["reason"]): _Count(row["count"], list(row["examples"])) for row in account["rows"]
        }

    def summary(self) -> str:
        """Return one line such as ``empty_answer 3, dropped_overlong 1`` (``nothing`` when empty)."""
        totals: dict[str, int] = {}
        for row in self.rows():
            totals[row.reason] = totals.get(row.reason, 0) + row.count
        return ", ".join(f"{reason} {count}" for reason, count in totals.items()) or "nothing"
