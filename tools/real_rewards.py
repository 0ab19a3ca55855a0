"""The reward of the real run, how positive a text sounds to VADER's rules (-1 to 1), and a judge that never trains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

_ANALYZER = SentimentIntensityAnalyzer()


def sentiment(inputs: Sequence[Any], responses: Sequence[str], labels: Sequence[Any]) -> list[float]:
    """Return VADER's compound score of each response."""
    return [_ANALYZER.polarity_scores(response)["compound"] for response in responses]


def on_topic(inputs: Sequence[Any], responses: Sequence[str], labels: Sequence[Any]) -> list[float]:
    """Return 1 for each response that has the last word of its topic (the label), in any form, else 0."""
    stems = [str(topic).lower().split()[-1].rstrip("s") for topic in labels]
    return [float(stem in response.lower()) for stem, response in zip(stems, responses, strict=True)]
