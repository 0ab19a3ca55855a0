"""Which rows a pass holds, on cases small enough to follow by hand; blocks hold 4 tokens."""

from __future__ import annotations

import numpy as np
import pytest

from alignment.generation.fused.paging import Paging
from alignment.generation.fused.scheduler import Scheduler
from alignment.generation.fused.sequences import make_sequences
from tests.unit.generation import fake_rows

LONG = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]


class Hand:
    """A scheduler stepped by hand; every token drawn is 0."""

    def __init__(self, prompts, limits, *, num_blocks=40, num_slots=2, max_rows=8, stops=()):
        sequences = make_sequences(map(np.array, prompts), limits, sequence_ids=range(len(prompts)))
        self.paging = Paging(num_blocks, 4)
        self.scheduler = Scheduler(
            sequences, self.paging, num_slots=num_slots, max_rows=max_rows, stops=fake_rows.stop_table(*stops)
        )

    def step(self, *drawn):
        """Take one step and return its rows as (slot, position, token)."""
        step = self.scheduler.plan()
        tokens = np.array(drawn or [0] * len(step.drawn_slots), np.int64)
        self.scheduler.add(tokens, np.zeros(len(tokens), np.float32))
        self.last = step
        columns = (step.slots.tolist(), step.positions.tolist(), step.tokens.tolist())
        return list(zip(*columns, strict=True))


def test_prompts_are_read_in_chunks_and_decode_rows_come_first():
    hand = Hand([[1, 2, 3], LONG], [5, 5])
    assert hand.step() == [(0, p, p + 1) for p in range(3)] + [(1, p, p + 1) for p in range(5)]
    assert hand.last.logit_rows.tolist() == [2] and hand.last.drawn_slots.tolist() == [0]
    assert hand.step(9) == [(0, 3, 0)] + [(1, p, p + 1) for p in range(5, 10)]
    assert hand.last.logit_rows.tolist() == [0, 5] and hand.last.drawn_slots.tolist() == [0, 1]


def test_decode_rows_leave_prompts_at_least_one_row():
    hand = Hand([[1], LONG], [20, 1], max_rows=1)
    hand.step()
    for position in range(10):
        assert hand.step()[1] == (1, position, position + 1)
    assert hand.last.drawn_slots.tolist() == [0, 1]


def test_a_free_slot_is_refilled_in_the_next_step():
    hand = Hand([[1], [2], [3]], [1, 3, 2])
    assert hand.step() == [(0, 0, 1), (1, 0, 2)]
    assert hand.step() == [(1, 1, 0), (0, 0, 3)]
    assert [sequence.index for sequence in hand.last.entered] == [2]


def test_steps_of_a_steady_batch_hold_one_row_a_slot():
    hand = Hand([[1], [2]], [9, 9])
    hand.step()
    for position in range(1, 9):
        assert hand.step(3, 4) == [(0, position, 0 if position == 1 else 3), (1, position, 0 if position == 1 else 4)]
    assert hand.scheduler.done


def test_a_prompt_is_computed_once_for_all_its_samples():
    hand = Hand([LONG] * 4, [2] * 4, num_slots=4, max_rows=20)
    assert hand.step() == [(0, p, p + 1) for p in range(10)]
    assert hand.step() == [(0, 10, 0), (1, 9, 10), (2, 9, 10), (3, 9, 10)]
    assert len(hand.last.copies) == 3 and len({source for source, _ in hand.last.copies}) == 1
    tables = hand.scheduler.slots.block_tables[:, :3]
    assert (tables[:, :2] == tables[0, :2]).all(), "full blocks are shared"
    assert len(set(tables[:, 2].tolist())) == 4, "the block in which the prompt ends is not"
    assert hand.paging.counts.shared_tokens == 27


def test_a_prompt_outlives_its_first_sample_while_others_wait():
    hand = Hand([LONG] * 3, [1] * 3, num_slots=1, max_rows=20)
    assert [len(hand.step()) for _ in range(3)] == [10, 1, 1]
    assert hand.scheduler.done and hand.paging.num_free == 40


def test_a_prefix_that_fills_its_blocks_is_shared_without_a_copy():
    hand = Hand([LONG[:9]] * 2, [1] * 2, max_rows=20)
    hand.step()
    assert hand.step() == [(1, 8, 9)]
    assert hand.paging.counts.copies == 0 and hand.paging.counts.shared_tokens == 8


def test_different_prompts_share_nothing():
    hand = Hand([LONG, LONG[:9]], [1, 1], max_rows=20)
    assert len(hand.step()) == 19
    assert hand.paging.counts.shared_tokens == 0


def test_samples_whose_prompt_is_being_read_wait_for_it():
    hand = Hand([LONG] * 2, [3] * 2, max_rows=4)
    assert [slot for slot, _, _ in hand.step()] == [0] * 4
    assert [slot for slot, _, _ in hand.step()] == [0] * 4
    assert [slot for slot, _, _ in hand.step()] == [0] * 2
    assert hand.step() == [(0, 10, 0), (1, 9, 10)]


def test_the_youngest_gives_way_and_comes_back_with_its_tokens():
    hand = Hand([[1, 2, 3], [4, 5, 6], [7]], [8, 8, 1], num_blocks=4)
    hand.step(3, 3)
    rows = [hand.step(3, 3) for _ in range(5)]
    assert rows[-1] == [(0, 7, 3), (1, 7, 3)] and hand.paging.num_free == 0
    assert hand.step(3) == [(0, 8, 3)], "slot 1 gave its blocks to slot 0"
    assert hand.scheduler.counts.preemptions == 1
    hand.step(3)
    hand.step()
    assert [sequence.index for sequence in hand.last.entered][0] == 1, "before the one that never ran"


def test_recomputed_rows_are_prompt_and_answer_so_far():
    hand = Hand([[1, 2, 3], [4, 5, 6]], [8, 8], num_blocks=4, max_rows=20)
    for drawn in range(6):
        hand.step(drawn, drawn)
    assert hand.step(0) == [(0, 8, 5)]
    hand.step(0)
    assert hand.scheduler.counts.preemptions == 1
    assert [token for _, _, token in hand.step()] == [4, 5, 6, 0, 1, 2, 3, 4, 5]
    hand.step()
    assert hand.scheduler.done
    assert hand.scheduler.completions()[1].token_ids.tolist() == [0, 1, 2, 3, 4, 5, 0, 0]


def test_a_kept_prefix_goes_before_a_running_sequence():
    prompts = [LONG, [1, 2, 3], [4], LONG]
    hand = Hand(prompts, [1, 10, 1, 1], num_blocks=6, max_rows=20)
    while not hand.scheduler.done:
        hand.step()
    assert hand.scheduler.counts.preemptions == 0
    assert hand.paging.num_free == 6


def test_admission_leaves_every_running_sequence_a_block_to_grow():
    hand = Hand([[1], [2], [3]], [9, 9, 9], num_blocks=4, num_slots=3)
    assert len(hand.step()) == 2, "two blocks taken; a third sequence would leave two others one block"


def test_a_stop_token_ends_an_answer_and_is_part_of_it():
    hand = Hand([[1], [2]], [5, 5], stops=(7,))
    hand.step(7, 3)
    assert hand.step(7) == [(1, 1, 3)]
    first, second = hand.scheduler.completions()
    assert (first.token_ids.tolist(), first.finish_reason) == ([7], "stop")
    assert (second.token_ids.tolist(), second.finish_reason) == ([3, 7], "stop")


@pytest.mark.parametrize("num_slots", [1, 2, 7])
def test_answers_keep_the_order_of_arrival(num_slots):
    prompts, limits = [[1], [2, 3], [4], LONG, [5]], [3, 9, 1, 2, 4]
    batch = fake_rows.Batch(prompts, limits, range(5), num_blocks=6, num_slots=num_slots)
    table = fake_rows.stop_table()
    assert batch.answers == [
        fake_rows.answer_alone(p, n, i, table) for i, (p, n) in enumerate(zip(prompts, limits, strict=True))
    ]
