"""ROUGE by hand; the package itself is the oracle of tests/interop."""

from __future__ import annotations

import pytest

from alignment.evaluation.rouge import TYPES, has_words, rouge_scores


def test_scores_by_hand():
    """Two of three words are shared, in order, but no pair of neighbours."""
    found = rouge_scores(["rope x lamp"], "rope y lamp")
    assert found == pytest.approx({"rouge1": 2 / 3, "rouge2": 0.0, "rougeL": 2 / 3, "rougeLsum": 2 / 3})
    assert tuple(found) == TYPES


def test_several_answers_are_averaged():
    assert rouge_scores(["rope", "tent"], "rope", types=["rouge1"]) == {"rouge1": 0.5}


def test_a_stem_is_a_word_only_when_asked():
    assert rouge_scores(["packing"], "packed", types=["rouge1"]) == {"rouge1": 0.0}
    assert rouge_scores(["packing"], "packed", types=["rouge1"], use_stemmer=True) == {"rouge1": 1.0}


def test_what_the_package_reads_as_words():
    assert [has_words(text) for text in ("rope", "7", "...", "", "\u7ef3\u5b50")] == [True, True, False, False, False]
