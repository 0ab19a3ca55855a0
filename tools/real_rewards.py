"""A reward for the real run: how positive a text sounds to VADER's rules, from -1 to 1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

_ANALYZER = SentimentIntensityAnalyzer()


def sentiment(inputs: Sequence[Any], responses: Sequence[str], labels: Sequence[Any]) -> list[float]:
    """Return VADER's compound score of each response."""
    return [_ANALYZER.polarity_scores(response)["compound"] for response in responses]
