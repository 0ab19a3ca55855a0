"""Which rows of an update begin with the same prompt, and what they count in a token budget."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from alignment.data.encoded.store import Sample, count_tokens
from alignment.models.decoder.forest import shareable
from alignment.parallel.micro_batches import Families


def prompt_families(prompts: Sequence[np.ndarray], lengths: Sequence[Sequence[int]]) -> Families:
    """Return the families of rows with the same one of ``prompts``; ``lengths``: of the sequences of each row."""
    numbers: dict[bytes, int] = {}
    known = [numbers.setdefault(prompt.tobytes(), len(numbers)) for prompt in prompts]
    longest = np.array([max(sizes) for sizes in lengths], np.int64)
    return Families(known, shareable(np.array([*map(len, prompts)], np.int64), longest))


def count_samples(samples: Sequence[Sample], *, shares: bool) -> tuple[list[int], Families | None]:
    """Return the tokens of each sample, and which samples have the same prompt; None: rows share nothing.

    ``shares``: the answers of a sample share their prompt, which counts once.
    """
    sizes = [*map(count_tokens, samples)]
    if not shares or not samples or "prompt_length" not in samples[0]:
        return sizes, None
    rows = [[ids for field, ids in sample.items() if field.endswith("input_ids")] for sample in samples]
    prompts = [ids[0][: sample["prompt_length"]] for ids, sample in zip(rows, samples, strict=True)]
    families = prompt_families(prompts, [[*map(len, ids)] for ids in rows])
    saved = [(len(ids) - 1) * shared for ids, shared in zip(rows, families.shared.tolist(), strict=True)]
    return [size - less for size, less in zip(sizes, saved, strict=True)], families
