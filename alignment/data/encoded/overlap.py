"""Find evaluation rows whose prompt is trained on too."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from alignment.data.encoded.store import Sample
from alignment.data.encoded.supervised import IGNORE_INDEX

TELLING_SHARE = 0.1
"""Share of shared prompts from which the evaluation is said not to show what it should."""


def describe_overlap(training: Iterable[Sample], evaluation: Iterable[Sample]) -> str | None:
    """Say how many evaluation rows have a prompt, or are rows, that training holds too, and what follows if many are;
    None if none has.
    """
    wanted = [_split(sample) for sample in evaluation]
    prompts, rows = {prompt for prompt, _ in wanted}, set(wanted)
    known_prompts, known_rows = set(), set()
    for sample in training:
        prompt, answer = _split(sample)
        if prompt in prompts:
            known_prompts.add(prompt)
            known_rows |= {(prompt, answer)} & rows
    shared = sum(prompt in known_prompts for prompt, _ in wanted)
    same = sum(row in known_rows and bool(row[1]) for row in wanted)
    if not shared:
        return None
    answers = f" ({same} with the same answer)" if same else ""
    follows = ": the evaluation does not show how the model does on new prompts"
    conclusion = follows if shared >= TELLING_SHARE * len(wanted) else ""
    return f"{shared} of {len(wanted)} evaluation rows have a prompt that is trained on too{answers}{conclusion}"


def _split(sample: Sample) -> tuple[bytes, bytes]:
    """Return prompt and answers of a sample; the answers are empty for prompt-only data."""
    sequences: list[Any] = [ids for name, ids in sample.items() if name.endswith("input_ids")]
    length = len(sequences[0])
    if "prompt_length" in sample:
        length = sample["prompt_length"]
    elif "labels" in sample:
        length = int(np.argmax(sample["labels"] != IGNORE_INDEX))
    length = length or len(sequences[0])  # a row that is trained on from its start has no prompt
    answers = [ids[length:].tobytes() for ids in sequences]
    return sequences[0][:length].tobytes(), b"" if not any(answers) else b"|".join(answers)
