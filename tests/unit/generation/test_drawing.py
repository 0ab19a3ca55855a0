"""Greedy tokens of a vocabulary in parts are those of the whole one; threads stand for processes."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignment.architecture.parts import even_cut
from alignment.errors import NumericalError
from alignment.generation.drawing import Drawer, GreedyInParts, gather_logits
from alignment.generation.engine import GenerationOptions
from alignment.generation.engine_placement import EnginePlacement
from alignment.generation.sampling import Sampler

PROMPTS = [np.array([1, 2]), np.array([6]), np.array([0, 3, 5])]


class _Members:
    """Group of threads: what each brings is reduced when all are there."""

    def __init__(self, size):
        self.brought = [None] * size
        self.barrier = threading.Barrier(size, timeout=20)

    def exchange(self, index, value):
        self.brought[index] = value
        self.barrier.wait()
        values = list(self.brought)
        self.barrier.wait()
        return values


class _Member:
    def __init__(self, members, index):
        self.size, self.index, self._members = len(members.brought), index, members

    @property
    def is_last(self):
        return self.index == self.size - 1

    def max_(self, tensor, what=""):
        return paddle.to_tensor(np.max(self._members.exchange(self.index, tensor.numpy()), axis=0))

    def sum_(self, tensor, what=""):
        return paddle.to_tensor(np.sum(self._members.exchange(self.index, tensor.numpy()), axis=0))

    def gather(self, tensor, what=""):
        return [paddle.to_tensor(x) for x in self._members.exchange(self.index, tensor.numpy())]

    def broadcast_(self, tensor, source, what=""):
        return paddle.to_tensor(self._members.exchange(self.index, tensor.numpy())[source])

    def share_object(self, value, source, what=""):
        return self._members.exchange(self.index, value)[source]


def _everywhere(size, work):
    members = _Members(size)
    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(work, [_Member(members, index) for index in range(size)]))


# Few different values, so that ties are common.
LOGITS = st.lists(st.lists(st.integers(-4, 4), min_size=7, max_size=7), min_size=3, max_size=3)


@settings(max_examples=60)
@given(
    logits=st.lists(LOGITS, min_size=1, max_size=3),
    size=st.integers(2, 4),
    usable=st.sampled_from([None, 7, 6, 3, 1]),
    penalty=st.sampled_from([1.0, 1.7]),
    min_new_tokens=st.integers(0, 2),
)
def test_parts_agree_with_the_whole(logits, size, usable, penalty, min_new_tokens):
    options = GenerationOptions(
        max_new_tokens=5,
        min_new_tokens=min_new_tokens,
        do_sample=False,
        temperature=0.7,
        repetition_penalty=penalty,
        stop_token_ids=(0, 6) if usable != 1 else (),
    )
    steps = np.array(logits, np.float32) / 2
    limits = {"vocab_size": 7, "usable_vocab_size": usable}

    def walk(sampler, columns):
        drawn = [sampler.draw(steps[0][:, columns], 0)]
        sampler.keep(np.array([0, 2]))
        return drawn + [sampler.draw(later[[0, 2]][:, columns], step) for step, later in enumerate(steps[1:], 1)]

    wanted = walk(Sampler(options, PROMPTS, np.zeros((3, 5)), **limits), slice(None))
    parts = _everywhere(
        size,
        lambda group: walk(
            GreedyInParts(options, PROMPTS, group=group, **limits), slice(*even_cut(7, group.size, group.index))
        ),
    )
    for found in parts:
        for (tokens, logprobs), (wanted_tokens, wanted_logprobs) in zip(found, wanted, strict=True):
            assert tokens.tolist() == wanted_tokens.tolist()
            np.testing.assert_allclose(logprobs, wanted_logprobs, atol=2e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("column", [0, 6])
def test_damage_in_one_part_is_seen_in_all(value, column):
    logits = np.zeros((3, 7), np.float32)
    logits[1, column] = value

    def work(group):
        sampler = GreedyInParts(
            GenerationOptions(max_new_tokens=5, do_sample=False),
            PROMPTS,
            group=group,
            vocab_size=7,
            usable_vocab_size=None,
        )
        with pytest.raises(NumericalError, match="new token 2 are NaN or infinite in 1 of 3") as caught:
            sampler.draw(logits[:, slice(*even_cut(7, group.size, group.index))], 2)
        return str(caught.value)

    assert len(set(_everywhere(3, work))) == 1


def test_uneven_parts_are_gathered_whole():
    logits = np.arange(14, dtype=np.float32).reshape(2, 7)

    def work(group):
        part = paddle.to_tensor(logits[:, slice(*even_cut(7, group.size, group.index))])
        return gather_logits(part, group, vocab_size=7).numpy()

    for whole in _everywhere(3, work):
        np.testing.assert_array_equal(whole, logits)


def test_on_a_device_all_ranks_take_the_first_ones_draw():
    """Other uniform numbers stand for what the order of a GPU's sums does to a draw near a boundary."""
    options = GenerationOptions(max_new_tokens=5, temperature=0.7)
    logits = np.random.default_rng(0).normal(size=(3, 7)).astype(np.float32)
    uniforms = np.random.default_rng(1).random((3, 3, 5))
    wanted = Sampler(options, PROMPTS, uniforms[0], vocab_size=7).draw(logits.copy(), 0)

    def work(group):
        placement = EnginePlacement(tensor=group, layers=(range(1),))
        limits = {"vocab_size": 7, "usable_vocab_size": None}
        drawer = Drawer(options, PROMPTS, uniforms[group.index], placement=placement, on_device=True, **limits)
        return drawer.draw(paddle.to_tensor(logits[:, slice(*even_cut(7, 3, group.index))]), 0, num_rows=3)

    for tokens, logprobs in _everywhere(3, work):
        np.testing.assert_array_equal(tokens, wanted[0])
        np.testing.assert_allclose(logprobs, wanted[1], atol=1e-6)


@pytest.mark.parametrize("damaged", [False, True])
def test_all_stages_learn_what_the_last_one_drew(damaged):
    options = GenerationOptions(max_new_tokens=5, temperature=0.7)
    logits = np.random.default_rng(0).normal(size=(3, 7)).astype(np.float32)
    uniforms = np.random.default_rng(1).random((3, 5))
    wanted = Sampler(options, PROMPTS, uniforms, vocab_size=7).draw(logits.copy(), 0)
    logits[0, 0] = np.nan if damaged else logits[0, 0]

    def work(group):
        placement = EnginePlacement(pipeline=group, layers=(range(1),))
        drawer = Drawer(options, PROMPTS, uniforms, vocab_size=7, usable_vocab_size=None, placement=placement)
        here = paddle.to_tensor(logits) if group.is_last else None
        try:
            return drawer.draw(here, 0, num_rows=3)
        except NumericalError as error:
            return str(error)

    found = _everywhere(3, work)
    if damaged:
        assert len(set(found)) == 1 and "new token 0" in found[0]
    else:
        for tokens, logprobs in found:
            np.testing.assert_array_equal(tokens, wanted[0])
            np.testing.assert_array_equal(logprobs, wanted[1])
