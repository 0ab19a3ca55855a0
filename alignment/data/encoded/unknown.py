"""Count and show the unknown tokens in encoded samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from alignment.data.tokenizer import TokenizerLike

DIFFERENCE_SAYS = (
    "; unknown_difference: the answers differ only in text that the tokenizer does not know, so both become the same "
    "tokens"
)
_AROUND = 6
"""Tokens shown before and after an unknown one."""


class Samples(Protocol):
    """Encoded samples and their tokenizer."""

    tokenizer: TokenizerLike

    def __getitem__(self, index: int) -> Mapping[str, Any]: ...


def count_unknown(sample: Mapping[str, Any], unknown: int | None) -> int:
    """Return the number of tokens with id ``unknown`` in all sequences of ``sample``."""
    return 0 if unknown is None else sum(int((ids == unknown).sum()) for ids in _sequences(sample))


def describe_unknown(samples: Samples, counts: Sequence[int], unknown: int | None) -> str:
    """Describe the share of unknown tokens, with an example; ``counts`` is their number in each sample."""
    total = sum(len(ids) for number in range(len(counts)) for ids in _sequences(samples[number]))
    number = next(number for number, count in enumerate(counts) if count)
    ids = next(ids for ids in _sequences(samples[number]) if (ids == unknown).any())
    at = int((ids == unknown).argmax())
    shown = samples.tokenizer.decode(ids[max(0, at - _AROUND) : at + _AROUND + 1].tolist(), skip_special_tokens=False)
    name = samples.tokenizer.decode([unknown], skip_special_tokens=False).strip()
    return (
        f"the tokenizer does not know all the text of {len([c for c in counts if c])} of {len(counts)} rows: "
        f"{sum(counts)} of {total} tokens ({sum(counts) / total:.1%}) are {name}, for example in {shown!r}"
    )


def _sequences(sample: Mapping[str, Any]) -> Iterator[Any]:
    return (value for name, value in sample.items() if name.endswith("input_ids"))
