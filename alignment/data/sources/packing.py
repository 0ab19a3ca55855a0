"""The packing task: a generated task whose true score is known but never shown to a model.

A prompt such as ``pack rope lamp map`` names 3 to 5 wanted items. A perfect answer lists exactly these, each once, in
any order, and ends with ``done``: ``lamp rope map done``. ``true_score`` rates an answer.

The shipped data is written by ``packing_generate``. Supervised answers and preference pairs come from a sloppy packer
who forgets wanted items, adds others, repeats some, mumbles and often does not say ``done``. Preferences follow the
true score; 5 % of the labels are flipped in the training pairs, none in the test pairs. No wanted set of a test split
occurs in a training split.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from alignment.data.sources.json_lines import JsonLinesDataset
from alignment.errors import DataError
from alignment.records import RawSample

ITEMS = (
    *("apple", "boots", "bread", "candle", "coat", "compass"),
    *("kettle", "knife", "lamp", "map", "rope", "tent"),
)
FILLERS = ("also", "and", "maybe", "um")
OPENING, CLOSING = "pack", "done"
SHIPPED = Path(__file__).resolve().parents[1] / "shipped" / "packing"
TOKENIZER = SHIPPED / "tokenizer"


def true_score(prompt: str, answer: str) -> float:
    """Return how well ``answer`` packs what ``prompt`` wants: 1.2 is perfect, bad answers are below 0.

    With n wanted items: ``(present - 0.5 * unwanted - 0.25 * repeats) / n + 0.2 * closed - 0.05 * superfluous``, where
    ``present`` counts wanted items named at least once, ``unwanted`` other items (each once), ``repeats`` further
    mentions of any item, ``closed`` is 1 if the last word is the only ``done``, and ``superfluous`` counts every other
    word (fillers, unknown words, a ``done`` that does not end the answer). ``prompt`` may be plain or rendered.
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
    """Return the items after the last ``pack`` of ``prompt``; none is a ``DataError``."""
    words = prompt.split()
    start = len(words) - words[::-1].index(OPENING) if OPENING in words else len(words)
    wanted = {word for word in words[start:] if word in ITEMS}
    if not wanted:
        raise DataError(f"not a packing prompt: {prompt!r} (expected '{OPENING} ITEM ITEM ITEM')")
    return wanted


class PackingDataset(JsonLinesDataset):
    """A shipped file of the task; one subclass per entry of ``FILES``."""

    FILE: ClassVar[str]

    def __init__(self) -> None:
        super().__init__(SHIPPED / self.FILE)


class PackingLabelsDataset(PackingDataset):
    """One answer of each pair with a label: in turn the better answer, which is desirable, and the worse one."""

    def __getitem__(self, index: int) -> RawSample:
        """Return row ``index``."""
        pair = super().__getitem__(index)
        liked = index % 2 == 0
        answer = pair["answer" if pair["better"] == liked else "other_answer"]
        return RawSample(input=pair["input"], answer=answer, desirable=liked)


FILES = {
    "packing-sft/train": "sft_train.jsonl",  # prompts with a sloppy answer: 8000 rows
    "packing-sft/test": "sft_test.jsonl",  # 300 rows, unseen wanted sets
    "packing-preference/train": "preference_train.jsonl",  # pairs of answers: 14000 rows, 5 % of the labels flipped
    "packing-preference/test": "preference_test.jsonl",  # 500 rows, unseen wanted sets, true labels
    "packing-prompts/train": "prompts_train.jsonl",  # prompts only: 4000 rows
    "packing-prompts/test": "prompts_test.jsonl",  # 200 rows, unseen wanted sets
}
"""NAME to file of every dataset of the task."""
for _name, _file in FILES.items():
    type(f"PackingDataset_{_file.partition('.')[0]}", (PackingDataset,), {"NAME": _name, "FILE": _file})
for _split in ("train", "test"):
    _row = {"NAME": f"packing-kto/{_split}", "FILE": FILES[f"packing-preference/{_split}"]}
    type(f"PackingLabelsDataset_{_split}", (PackingLabelsDataset,), _row)
