"""Philox against the published vectors, and the independence the engine relies on."""

from __future__ import annotations

import numpy as np
import pytest

from alignment.generation.random_numbers import philox, uniform

ONES = 0xFFFFFFFF
VECTORS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((ONES, ONES, ONES, ONES), (ONES, ONES), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "words"), VECTORS)
def test_published_vectors(counter, key, words):
    assert tuple(philox(np.array(counter, np.uint64), key).tolist()) == words


def test_numbers_depend_on_their_place_only():
    whole = uniform(7, np.arange(5)[:, None], np.arange(9))
    assert whole.shape == (5, 9)
    assert uniform(7, np.array([3]), np.array([4]))[0] == whole[3, 4]
    assert np.array_equal(uniform(7, np.array([[4], [1]]), np.arange(9)), whole[[4, 1]])
    assert len(np.unique(whole)) == whole.size


@pytest.mark.parametrize("other", [dict(seed=8), dict(seed=7 + 2**32), dict(sequence=2**32 + 1), dict(position=1)])
def test_every_part_of_the_address_counts(other):
    place = {"seed": 7, "sequence": 1, "position": 0}
    draw = lambda p: uniform(p["seed"], np.array(p["sequence"]), np.array(p["position"]))  # noqa: E731
    assert draw(place) != draw(place | other)


def test_numbers_are_uniform():
    numbers = uniform(0, np.arange(200)[:, None], np.arange(500))
    assert numbers.min() >= 0.0 and numbers.max() < 1.0
    counts = np.histogram(numbers, bins=20, range=(0, 1))[0]
    assert ((counts - 5000) ** 2 / 5000).sum() < 45.0  # chi-square, 19 degrees of freedom: p < 0.001


def test_negative_seed_is_accepted():
    assert 0.0 <= uniform(-1, np.array(0), np.array(0)) < 1.0
