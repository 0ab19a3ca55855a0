"""Routing tokens to experts against a loop over tokens, by hand and in gradients."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from alignment.ops.expert_routing import Dispatch, choose_experts, expert_weights, routing_probabilities

LOGITS = np.array([[0.0, 2.0, 1.0, -1.0], [3.0, 0.0, 0.0, 1.0], [0.5, 0.0, 2.5, 1.0]], np.float32)
CHOSEN = np.array([[1, 2], [0, 3], [2, 3]])


def probabilities():
    return routing_probabilities(paddle.to_tensor(LOGITS))


def test_the_likeliest_experts_first():
    assert choose_experts(probabilities(), 2).tolist() == CHOSEN.tolist()


def test_weights_are_shares_of_all_or_of_the_chosen():
    exponents = np.exp(LOGITS[1])
    found = [expert_weights(probabilities(), paddle.to_tensor(CHOSEN), normalises=norm)[1] for norm in (False, True)]
    np.testing.assert_allclose(found[0].numpy(), exponents[[0, 3]] / exponents.sum(), rtol=1e-6)
    np.testing.assert_allclose(found[1].numpy(), exponents[[0, 3]] / exponents[[0, 3]].sum(), rtol=1e-6)


def test_half_precision_is_routed_in_float32():
    assert routing_probabilities(paddle.to_tensor(LOGITS).astype("bfloat16")).dtype == paddle.float32


@pytest.mark.parametrize("experts", [range(4), range(2), range(2, 4), range(1, 2)], ids=str)
def test_the_way_there_and_back(experts):
    generator = np.random.default_rng(0)
    x, scales, weights, seeds = (
        paddle.to_tensor(generator.standard_normal(shape).astype("float32"), stop_gradient=False)
        for shape in ((3, 5), (4, 5), (3, 2), (3, 5))
    )
    dispatch = Dispatch.build(CHOSEN, experts)
    parts = dispatch.send(x)
    assert [part.shape[0] for part in parts] == [(number == CHOSEN).sum() for number in experts]
    (
        dispatch.collect([part * scales[n] for n, part in zip(experts, parts, strict=True)], weights) * seeds
    ).sum().backward()
    found = [seeds.grad.numpy(), *(tensor.grad.numpy() for tensor in (x, scales, weights))]
    for tensor in (seeds, x, scales, weights):
        tensor.clear_gradient(False)
    total = paddle.zeros([])
    for token, row in enumerate(CHOSEN):
        for place, number in enumerate(row):
            if number in experts:
                total += (x[token] * scales[int(number)] * weights[token, place] * seeds[token]).sum()
    total.backward()
    for ours, tensor in zip(found, (seeds, x, scales, weights), strict=True):
        wanted = np.zeros_like(ours) if tensor.grad is None else tensor.grad.numpy()
        np.testing.assert_allclose(ours, wanted, rtol=1e-5, atol=1e-6)


def test_an_expert_without_tokens_gets_none_and_its_gradient_is_zero():
    weight = paddle.ones([4, 5, 5])
    weight.stop_gradient = False
    dispatch = Dispatch.build(np.array([[1, 2], [2, 1]]), range(4))
    x = paddle.ones([2, 5])
    x.stop_gradient = False
    parts = dispatch.send(x)
    assert [part.shape[0] for part in parts] == [0, 2, 2, 0]
    outputs = [paddle.matmul(part, weight[n]) for n, part in enumerate(parts)]
    dispatch.collect(outputs, paddle.ones([2, 2])).sum().backward()
    assert [bool(weight.grad[n].any()) for n in range(4)] == [False, True, True, False]


def test_no_tokens_at_all():
    dispatch = Dispatch.build(np.empty((0, 2), np.int64), range(3))
    assert dispatch.collect(dispatch.send(paddle.ones([0, 5])), paddle.ones([0, 2])).shape == [0, 5]
