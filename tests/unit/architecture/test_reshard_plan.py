"""Any layout to any other: every wanted element comes exactly once, and no sender carries much more than others."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignment.architecture.parts import Part, even_cut
from alignment.architecture.reshard_plan import UncoveredError, box_size, cut_box, model_order, plan_transfers

SHAPES = {"model.embed_tokens.weight": (7, 4), "model.layers.0.a": (6, 5), "model.layers.1.a": (8,), "score.weight": ()}


def cut(part, pieces, index, axis):
    return part.along(axis, *even_cut(part.extent[axis], pieces, index)) if part.extent else part


@st.composite
def layouts(draw, *, covers):
    """The parts of up to five processes: each tensor cut along a random axis, again by rows, copied or left
    out, here and there whole beside its pieces.
    """
    num_ranks = draw(st.integers(1, 5))
    held = [[] for _ in range(num_ranks)]
    for name, shape in SHAPES.items():
        pieces, rows = draw(st.integers(1, num_ranks)), draw(st.integers(1, 2))
        axis = draw(st.integers(0, max(0, len(shape) - 1)))
        first = draw(st.integers(0, num_ranks - 1))
        for step in range(num_ranks if covers else draw(st.integers(0, num_ranks))):
            rank = (first + step) % num_ranks
            part = cut(Part.whole(name, shape), pieces, step % pieces, axis)
            part = cut(part, rows, step // pieces % rows, 0) if num_ranks >= pieces * rows or not covers else part
            if part.size:
                held[rank].append(Part.whole(name, shape) if draw(st.integers(0, 5)) == 0 else part)
    return held


def content(part):
    """The numbers of a part of a tensor whose elements are all different."""
    whole = np.arange(math.prod(part.shape)).reshape(part.shape) + 1000 * list(SHAPES).index(part.name)
    return whole[part.slices]


@given(sources=layouts(covers=True), targets=layouts(covers=False), limit=st.integers(1, 40))
def test_every_wanted_element_comes_exactly_once(sources, targets, limit):
    num_ranks = max(len(sources), len(targets))
    sources, targets = (side + [[] for _ in range(num_ranks - len(side))] for side in (sources, targets))
    plan = plan_transfers(sources, targets)
    local = {(rank, part.name): part for rank, parts in enumerate(sources) for part in parts}
    got = {
        (rank, part.name): np.full(part.extent, -1) if plan.sources[rank].get(part.name) != part else content(part)
        for rank, parts in enumerate(targets)
        for part in parts
    }
    for bucket in plan.buckets(limit):
        for message in bucket:
            for piece in message.pieces:
                want = plan.targets[piece.target][piece.name]
                held = local[piece.source, piece.name]
                assert piece.size <= limit
                into = tuple(slice(a - c, b - c) for (a, b), (c, _) in zip(piece.box, want.box, strict=True))
                out = tuple(slice(a - c, b - c) for (a, b), (c, _) in zip(piece.box, held.box, strict=True))
                assert (got[piece.target, piece.name][into] == -1).all(), "twice"
                got[piece.target, piece.name][into] = content(held)[out]
    for (rank, name), found in got.items():
        np.testing.assert_array_equal(found, content(plan.targets[rank][name]))


@given(sources=layouts(covers=True), targets=layouts(covers=False), limit=st.integers(1, 40))
def test_a_bucket_bounds_what_any_process_sends_and_receives(sources, targets, limit):
    num_ranks = max(len(sources), len(targets))
    sources, targets = (side + [[] for _ in range(num_ranks - len(side))] for side in (sources, targets))
    for bucket in plan_transfers(sources, targets).buckets(limit):
        pairs = [(message.source, message.target) for message in bucket]
        assert len(set(pairs)) == len(pairs), "one message for a pair"
        for rank in range(num_ranks):
            assert sum(m.size for m in bucket if rank in (m.source, m.target)) <= limit


@given(sources=layouts(covers=True), targets=layouts(covers=False))
def test_nobody_sends_while_another_holder_has_sent_less(sources, targets):
    num_ranks = max(len(sources), len(targets))
    sources, targets = (side + [[] for _ in range(num_ranks - len(side))] for side in (sources, targets))
    plan = plan_transfers(sources, targets)
    sent = [0] * num_ranks
    for transfer in plan.transfers:
        holders = [
            rank
            for rank, parts in enumerate(plan.sources)
            if transfer.name in parts and covers(parts[transfer.name].box, transfer.box)
        ]
        assert transfer.source in holders
        if transfer.target in holders:
            assert transfer.source == transfer.target
        else:
            assert sent[transfer.source] == min(sent[rank] for rank in holders)
            sent[transfer.source] += transfer.size
    totals = plan.totals(1)
    assert totals.wanted == sum(part.size for parts in targets for part in parts)
    assert totals.sent + totals.copied + totals.zero_copy == totals.wanted
    assert totals.largest_sender == max(sent)
    assert sum(row.num_bytes for row in plan.table(1)) == totals.wanted


def covers(outer, box):
    return all(a <= c and d <= b for (a, b), (c, d) in zip(outer, box, strict=True))


def test_equal_holders_share_the_work():
    parts = [Part.whole(f"model.layers.{i}.w", (10 + i % 3, 4)) for i in range(40)]
    plan = plan_transfers([parts, parts, parts, []], [[], [], [], parts])
    sent = {row.source: row.num_bytes for row in plan.table(1)}
    assert set(sent) == {0, 1, 2}
    assert max(sent.values()) - min(sent.values()) <= 12 * 4, "at most the largest tensor apart"


def test_what_does_not_change_is_not_touched():
    whole, half = Part.whole("a", (4, 4)), Part.whole("b", (4, 4)).along(0, 0, 2)
    plan = plan_transfers([[whole, half]], [[half, whole]])
    assert list(plan.buckets(100)) == []
    assert plan.totals(4).zero_copy == plan.totals(4).wanted


def test_a_part_that_nobody_holds_is_named():
    part = Part.whole("model.norm.weight", (8,))
    with pytest.raises(UncoveredError, match=r"model\.norm\.weight \[0:8\] of \[8\]"):
        plan_transfers([[part.along(0, 0, 3)], [part.along(0, 4, 8)]], [[part], []])


@given(shape=st.lists(st.integers(1, 6), max_size=3), limit=st.integers(1, 30))
def test_cut_boxes_make_up_the_box_in_the_order_of_memory(shape, limit):
    whole = np.arange(math.prod(shape)).reshape(shape)
    boxes = list(cut_box(tuple((0, size) for size in shape), limit))
    assert all(box_size(box) <= limit for box in boxes)
    flat = [whole[tuple(slice(*span) for span in box)].flatten() for box in boxes]
    np.testing.assert_array_equal(np.concatenate(flat), whole.flatten())


def test_names_come_in_the_order_of_the_model():
    names = [
        "model.layers.10.b",
        "model.layers.10.a",
        "lm_head.weight",
        "model.layers.2.b",
        "model.embed_tokens.weight",
    ]
    assert model_order([*names, "model.layers.2.b"]) == [
        "model.embed_tokens.weight", "model.layers.2.b", "model.layers.10.b", "model.layers.10.a", "lm_head.weight",
    ]  # fmt: skip
