"""Rotary series against numbers of transformers 5.23 (16 numbers a head, theta 10000)."""

from __future__ import annotations

import numpy as np
import pytest

from alignment.architecture.rotary_frequencies import inverse_frequencies
from alignment.errors import ModelFolderError

PLAIN = 10000.0 ** (-np.arange(8) / 8)
CASES = {
    "linear": (dict(rope_type="linear", factor=4.0), PLAIN / 4, 1.0),
    "dynamic": (dict(rope_type="dynamic", factor=4.0), PLAIN, 1.0),
    "llama3": (
        dict(
            rope_type="llama3",
            factor=8.0,
            low_freq_factor=1.0,
            high_freq_factor=4.0,
            original_max_position_embeddings=64,
        ),
        [1.0, 0.24438459, 0.013042256, 0.0039528473, 0.00125, 0.00039528473, 0.000125, 3.9528473e-05],
        1.0,
    ),
    "yarn": (
        dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=32),
        [1.0, 0.19764236, 0.025, 0.0079056947, 0.0025, 0.00079056947, 0.00025, 7.9056947e-05],
        1.138629436111989,
    ),
    "yarn with every number": (
        dict(
            rope_type="yarn",
            factor=4.0,
            original_max_position_embeddings=32,
            beta_fast=16,
            beta_slow=2,
            mscale=0.7,
            mscale_all_dim=0.5,
            truncate=False,
        ),
        [1.0, 0.079056941, 0.025, 0.0079056947, 0.0025, 0.00079056947, 0.00025, 7.9056947e-05],
        1.0259286501478284,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_numbers_of_transformers(name):
    scaling, expected, factor = CASES[name]
    series, scale = inverse_frequencies(16, 10000.0, scaling, max_positions=128)
    np.testing.assert_allclose(series, expected, rtol=1e-6)
    assert scale == pytest.approx(factor, rel=1e-9)


def test_plain_series():
    series, scale = inverse_frequencies(16, 10000.0, None, max_positions=128)
    np.testing.assert_allclose(series, PLAIN, rtol=1e-6)
    assert series.dtype == np.float32 and scale == 1.0


def test_given_attention_factor_wins():
    scaling = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=32, attention_factor=0.5)
    assert inverse_frequencies(16, 1e4, scaling, max_positions=128)[1] == 0.5


@pytest.mark.parametrize(
    ("scaling", "message"),
    [(dict(rope_type="longrope"), "longrope"), (dict(rope_type="llama3", factor=8.0), "low_freq_factor")],
)
def test_unknown_kind_and_missing_number_are_named(scaling, message):
    with pytest.raises(ModelFolderError, match=message):
        inverse_frequencies(16, 1e4, scaling, max_positions=128)
