"""ROUGE (Lin 2004) of answers, by the package rouge-score."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

TYPES = ("rouge1", "rouge2", "rougeL", "rougeLsum")
"""Overlap of words, of pairs of words, longest common subsequence, and the latter by lines."""


def rouge_scores(
    answers: Sequence[str], reference: str, *, types: Sequence[str] = TYPES, use_stemmer: bool = False
) -> dict[str, float]:
    """Return the F measure of each type, averaged over ``answers`` to one prompt."""
    scorer = _scorer(tuple(types), use_stemmer)
    found = [scorer.score(reference, answer) for answer in answers]
    return {name: sum(scores[name].fmeasure for scores in found) / len(found) for name in types}


def has_words(text: str) -> bool:
    """Tell whether rouge-score sees a word in ``text``: it reads only the letters a to z and digits."""
    return any(char.isascii() and char.isalnum() for char in text.lower())


@cache
def _scorer(types: tuple[str, ...], use_stemmer: bool) -> Any:
    from rouge_score.rouge_scorer import RougeScorer
    from rouge_score.tokenizers import DefaultTokenizer

    return RougeScorer(list(types), tokenizer=DefaultTokenizer(use_stemmer))
