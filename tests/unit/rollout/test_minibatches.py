"""Rows become micro-batches without losing or shifting a token."""

import numpy as np
import pytest

from alignment.records import Rollout, TokenBatch
from alignment.rollout.minibatches import epoch_orders, gather_grids, split_rows, token_batch

ROLLOUT = Rollout(
    prompts=(np.array([1, 5]), np.array([1, 5, 6, 7])),
    responses=(np.array([8, 9, 2]), np.array([4])),
    finish_reasons=("stop", "length"),
    group_ids=np.array([0, 1]),
)


def test_a_micro_batch_holds_prompt_and_response_and_targets_the_response():
    fields = {"advantages": np.array([[1.0, 2.0, 3.0], [4.0, 0.0, 0.0]], np.float32)}
    batch = token_batch(ROLLOUT, np.array([0, 1]), fields)
    np.testing.assert_array_equal(batch.input_ids, [[1, 5, 8, 9, 2], [1, 5, 6, 7, 4]])
    np.testing.assert_array_equal(batch.target_ids, [8, 9, 2, 4])
    np.testing.assert_array_equal(batch.target_columns, [0, 1, 2, 0])
    np.testing.assert_array_equal(batch.response_mask, [[1, 1, 1], [1, 0, 0]])
    np.testing.assert_array_equal(batch.fields["advantages"], fields["advantages"])


def test_fields_follow_their_rows_and_are_cut_to_the_width():
    fields = {"advantages": np.array([[1.0, 2.0, 3.0], [4.0, 0.0, 0.0]], np.float32), "row": np.array([10, 11])}
    batch = token_batch(ROLLOUT, np.array([1]), fields)
    assert batch.response_width == 1
    np.testing.assert_array_equal(batch.fields["advantages"], [[4.0]])
    np.testing.assert_array_equal(batch.fields["row"], [11])


def test_what_is_known_of_tokens_stays_known_while_they_are_the_same():
    judged = ROLLOUT.with_fields(scores=np.zeros(2))
    token_batch(judged, np.array([0]))
    later = judged.with_fields(scores=np.ones(2))
    assert later.token_grid is judged.token_grid and later.response_lengths is judged.response_lengths
    other = later.with_fields(responses=(np.array([3]), np.array([4, 2])))
    np.testing.assert_array_equal(other.token_grid, [[1, 5, 3, 0, 0, 0], [1, 5, 6, 7, 4, 2]])
    np.testing.assert_array_equal(token_batch(other, np.array([1])).target_ids, [4, 2])
    with pytest.raises(ValueError, match="read-only"):
        judged.token_grid[0] = 1


def test_padding_is_on_the_right_and_lengths_tell_it():
    batch = TokenBatch.build([np.array([7, 8]), np.array([9, 8, 7])], [np.array([1]), np.array([1, 2])], pad_token_id=0)
    np.testing.assert_array_equal(batch.input_ids, [[7, 8, 0], [9, 8, 7]])
    np.testing.assert_array_equal(batch.lengths, [2, 3])


def test_split_keeps_order_and_the_last_smaller_piece():
    assert [p.tolist() for p in split_rows(np.arange(5), 2)] == [[0, 1], [2, 3], [4]]


def test_orders_are_permutations_fixed_by_the_seed_and_differ_by_epoch():
    first, second = epoch_orders(50, num_epochs=2, seed=(3, 1))
    again, _ = epoch_orders(50, num_epochs=2, seed=(3, 1))
    assert sorted(first) == list(range(50))
    np.testing.assert_array_equal(first, again)
    assert (first != second).any()


def test_grids_of_different_widths_are_stacked():
    stacked = gather_grids([np.ones((1, 2)), np.full((2, 3), 5.0)], 4)
    np.testing.assert_array_equal(stacked, [[1, 1, 0, 0], [5, 5, 5, 0], [5, 5, 5, 0]])
