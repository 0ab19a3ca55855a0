"""Dropout by address: the same masks however tokens and columns are divided."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from alignment.ops.addressed_dropout import dropout, token_keys

IDS = np.array([[5, 6, 7, 8, 9], [5, 6, 7, 0, 0], [5, 6, 7, 8, 9]])
LENGTHS = np.array([5, 3, 5])


def _keys(rows=slice(None), *, seed=1, update=4):
    return paddle.to_tensor(token_keys(IDS[rows], LENGTHS[rows], seed=seed, update=update))


def _mask(keys, *, stream=11, first_column=0, columns=4096, rate=0.25):
    ones = paddle.ones([keys.shape[0], columns])
    return dropout(ones, keys, stream=stream, first_column=first_column, rate=rate).numpy()


def test_kept_numbers_are_scaled_and_the_rest_is_zero():
    mask = _mask(_keys())
    assert set(np.unique(mask)) == {0.0, np.float32(1 / 0.75)}
    assert abs((mask == 0).mean() - 0.25) < 0.01


def test_a_mask_does_not_depend_on_the_other_rows():
    np.testing.assert_array_equal(_mask(_keys())[5:8], _mask(_keys(slice(1, 2))))


def test_a_mask_does_not_depend_on_padding():
    wide = np.concatenate([IDS, np.full((3, 2), 3)], axis=1)
    narrow = token_keys(IDS, LENGTHS, seed=1, update=4)
    np.testing.assert_array_equal(narrow, token_keys(wide, LENGTHS, seed=1, update=4))


def test_a_mask_does_not_depend_on_how_columns_are_cut():
    whole = _mask(_keys())
    np.testing.assert_array_equal(whole[:, 1000:1500], _mask(_keys(), first_column=1000, columns=500))


@pytest.mark.parametrize("change", ["stream", "seed", "update"])
def test_other_layers_seeds_and_updates_have_other_masks(change):
    other = _mask(_keys(), stream=12) if change == "stream" else _mask(_keys(**{change: 9}))
    assert abs(np.corrcoef(_mask(_keys()).ravel(), other.ravel())[0, 1]) < 0.02


def test_tokens_and_columns_are_independent():
    mask = _mask(_keys())[:8]
    assert np.abs(np.corrcoef(mask) - np.eye(8)).max() < 0.07
