"""The packing task: a generated task with a true score that no model sees.

A prompt such as ``pack rope lamp map`` names 3 to 5 wanted items. A perfect answer lists exactly these, each once, in
any order, and closes with ``done``: ``lamp rope map done``. ``true_score`` says how good an answer is.

Shipped data (``packing_generate`` writes it): supervised answers and preference pairs come from a sloppy packer who
forgets wanted items, adds others, repeats some, mumbles and often does not say ``done``; preferences follow the true
score, 5 % of the training pairs (none of the test pairs) with the label turned round. The wanted sets of every test
split occur in no training split.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from alignment.data.sources.json_lines import JsonLinesDataset
from alignment.errors import DataError

ITEMS = (
    *("apple", "boots", "bread", "candle", "coat", "compass"),
    *("kettle", "knife", "lamp", "map", "rope", "tent"),
)
FILLERS = ("also", "and", "maybe", "um")
OPENING, CLOSING = "pack", "done"
SHIPPED = Path(__file__).resolve().parents[1] / "shipped" / "packing"
TOKENIZER = SHIPPED / "tokenizer"


def true_score(prompt: str, answer: str) -> float:
    """Return how well ``answer`` packs what ``prompt`` wants; 1.2 is perfect, bad answers go below 0.

    With n wanted items: ``(present - 0.5 * unwanted - 0.25 * repeats) / n + 0.2 * closed - 0.05 * superfluous``, where
    ``present`` counts wanted items named at least once, ``unwanted`` other items (each once), ``repeats`` every further
    naming of any item, ``closed`` is 1 when the last word is the only ``done``, and ``superfluous`` counts every other
    word (fillers, unknown words, a ``done`` that does not close the answer).

    ``prompt`` may be the bare text or a rendered template: the items after the last ``pack`` are wanted.
    """
    wanted = wanted_items(prompt)
    words = answer.split()
    items = [word for word in words if word in ITEMS]
    named = set(items)
    closed = bool(words) and words[-1] == CLOSING and words.count(CLOSING) == 1
    superfluous = len(words) - len(items) - int(closed)
    present, unwanted, repeats = len(named & wanted), len(named - wanted), len(items) - len(named)
    return (present - 0.5 * unwanted - 0.25 * repeats) / len(wanted) + 0.2 * closed - 0.05 * superfluous


def wanted_items(prompt: str) -> set[str]:
    """Return the items named after the last ``pack`` of ``prompt``; none is a ``DataError``."""
    words = prompt.split()
    start = len(words) - words[::-1].index(OPENING) if OPENING in words else len(words)
    wanted = {word for word in words[start:] if word in ITEMS}
    if not wanted:
        raise DataError(f"not a packing prompt: {prompt!r} (expected '{OPENING} ITEM ITEM ITEM')")
    return wanted


class PackingDataset(JsonLinesDataset):
    """A shipped file of the task."""

    FILE: ClassVar[str]

    def __init__(self) -> None:
        super().__init__(SHIPPED / self.FILE)


class PackingSftTrainDataset(PackingDataset):
    """Prompts with a sloppy answer: 8000 rows."""

    NAME, FILE = "packing-sft/train", "sft_train.jsonl"


class PackingSftTestDataset(PackingDataset):
    """Prompts with a sloppy answer: 300 rows, unseen wanted sets."""

    NAME, FILE = "packing-sft/test", "sft_test.jsonl"


class PackingPreferenceTrainDataset(PackingDataset):
    """Pairs of answers: 14000 rows, 5 % of the labels turned round."""

    NAME, FILE = "packing-preference/train", "preference_train.jsonl"


class PackingPreferenceTestDataset(PackingDataset):
    """Pairs of answers: 500 rows, unseen wanted sets, true labels."""

    NAME, FILE = "packing-preference/test", "preference_test.jsonl"


class PackingPromptsTrainDataset(PackingDataset):
    """Prompts alone: 4000 rows."""

    NAME, FILE = "packing-prompts/train", "prompts_train.jsonl"


class PackingPromptsTestDataset(PackingDataset):
    """Prompts alone: 200 rows, unseen wanted sets."""

    NAME, FILE = "packing-prompts/test", "prompts_test.jsonl"
