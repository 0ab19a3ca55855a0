"""What samples count in a token budget where their answers share the prompt."""

from __future__ import annotations

import numpy as np

from alignment.loops.shared_prompts import count_samples


def pair(prompt, better, worse):
    ids = [np.array([*prompt, *answer]) for answer in (better, worse)]
    return {"better_input_ids": ids[0], "worse_input_ids": ids[1], "prompt_length": len(prompt)}


def test_the_prompt_of_a_pair_counts_once():
    pairs = [pair([1, 2, 3], [4], [5, 6]), pair([1, 2], [4], [5]), pair([1, 2, 3], [7], [8])]
    sizes, families = count_samples(pairs, shares=True)
    assert sizes == [6, 4, 5]
    assert families.numbers == [0, 1, 0] and families.shared.tolist() == [3, 2, 3]
    assert count_samples(pairs, shares=False) == ([9, 6, 8], None)


def test_a_prompt_that_is_less_than_an_eighth_of_an_answer_is_not_shared():
    sizes, families = count_samples([pair([1], [2] * 7, [3] * 7), pair([1], [2] * 8, [3])], shares=True)
    assert sizes == [15, 11] and families.shared.tolist() == [1, 0]


def test_samples_of_one_row_share_with_those_of_the_same_prompt_only():
    rows = [{"input_ids": np.array([1, 2, 9]), "prompt_length": 2}, {"input_ids": np.array([1, 2]), "prompt_length": 1}]
    sizes, families = count_samples(rows, shares=True)
    assert sizes == [3, 2] and families.numbers == [0, 1]
    assert count_samples([{"input_ids": np.arange(4), "labels": np.arange(4)}], shares=True) == ([4], None)
    assert count_samples([], shares=True) == ([], None)
