"""Algorithms without a critic against values worked out by hand."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from alignment.algorithms.kl import kl_loss
from alignment.algorithms.masked import TokenMean
from alignment.algorithms.on_policy.registered import ALGORITHMS
from alignment.algorithms.on_policy.spec import Judged
from alignment.algorithms.policy_losses import RatioClip, cispo_loss, ppo_policy_loss, sapo_loss


def _judge(scores, lengths, ids, kl=0.0):
    width = max(lengths)
    mask = (np.arange(width) < np.array(lengths)[:, None]).astype(np.float64)
    old = paddle.full(mask.shape, kl, "float64")
    return Judged(
        paddle.to_tensor(scores, "float64"),
        old,
        paddle.to_tensor(mask),
        paddle.to_tensor(ids),
        paddle.zeros_like(old),
    )


def _advantages(name, judged, **chosen):
    algorithm = ALGORITHMS[name]
    return algorithm.estimate(judged, hyperparameters=algorithm.hyperparameters(**chosen)).advantages.numpy()


def test_rloo_compares_with_the_mean_of_the_others():
    """Scores 1, 2, 6: the others' means are 4, 3.5 and 1.5. A second group is on its own."""
    judged = _judge([1, 2, 6, 5, 9], [1, 2, 3, 1, 1], [7, 7, 7, 2, 2])
    found = _advantages("rloo", judged)
    np.testing.assert_allclose(found, [[-3, 0, 0], [-1.5, -1.5, 0], [4.5] * 3, [-4, 0, 0], [4, 0, 0]])


def test_rloo_takes_the_kl_of_a_whole_response_from_its_score():
    """0.5 nats a token with weight 0.2: 1 - 0.1 and 3 - 0.2."""
    np.testing.assert_allclose(
        _advantages("rloo", _judge([1, 3], [1, 2], [0, 0], kl=0.5), kl_coeff=0.2)[:, 0], [-1.9, 1.9]
    )


def test_opo_compares_with_the_mean_weighted_by_length():
    """(1 * 1 + 2 * 2 + 3 * 6) / 6 = 23 / 6."""
    found = _advantages("opo", _judge([1, 2, 6, 4, 4], [1, 2, 3, 1, 3], [0, 0, 0, 1, 1]))[:, 0]
    np.testing.assert_allclose(found, [1 - 23 / 6, 2 - 23 / 6, 6 - 23 / 6, 0, 0], atol=1e-12)


def test_remax_compares_with_the_greedy_response():
    """Token rewards (-0.1, 2.9) and (-0.1 + 1): returns 2.8, 2.9 and 0.9, minus 2 and 0.5."""
    judged = _judge([3, 1], [2, 1], [0, 1], kl=0.5)._replace(baseline_scores=paddle.to_tensor([2.0, 0.5], "float64"))
    np.testing.assert_allclose(_advantages("remax", judged, kl_coeff=0.2), [[0.8, 0.9], [0.4, 0]])


def test_dr_grpo_does_not_divide():
    np.testing.assert_allclose(_advantages("dr_grpo", _judge([1, 2, 6], [1, 1, 1], [0, 0, 0]))[:, 0], [-2, -1, 3])


@pytest.mark.parametrize(
    ("name", "scores"), [("reinforce_plus_plus", [1, -1]), ("reinforce_plus_plus_baseline", [3, 1])]
)
def test_reinforce_plus_plus_discounts_scores_and_kl_then_normalises_over_all_tokens(name, scores):
    """Token rewards (-0.1, 0.9) and (-1.1), discounted by 0.5: 0.35, 0.9, -1.1. The baseline 2 makes 3, 1 to 1, -1."""
    judged = _judge(scores, [2, 1], [0, 0], kl=0.5)
    options = {"kl_coeff": 0.2, "gamma": 0.5}
    tokens = np.array([0.35, 0.9, -1.1])
    scaled = (tokens - tokens.mean()) / tokens.std(ddof=1)
    found = _advantages(name, judged, **options)
    np.testing.assert_allclose(found, [scaled[:2], [scaled[2], 0]], rtol=1e-6)


@pytest.mark.parametrize("name", ["reinforce_plus_plus", "reinforce_plus_plus_baseline"])
def test_reinforce_plus_plus_clips_scores_before_it_compares_them(name):
    """100 counts as 4: with 0 and 2, the distances from their mean are 2, -2 and 0, and the std is 2."""
    judged = _judge([100, 0, 2], [1, 1, 1], [0, 0, 0])
    assert _advantages(name, judged, clip_range_score=4.0)[:, 0] == pytest.approx([1, -1, 0])


@pytest.mark.parametrize("name", ["rloo", "opo", "reinforce_plus_plus_baseline"])
def test_the_only_row_of_its_group_whose_reward_did_not_fail_teaches_nothing(name):
    judged = _judge([5, 1, 2, 3], [2, 2, 2, 2], [0, 0, 1, 1])
    judged.mask[1] = 0
    found = _advantages(name, judged)
    assert not found[:2].any() and (found[2] < 0).all() and (found[3] > 0).all()


ONE = TokenMean(paddle.ones([1, 2], "float64"), 1.0, "sequence")


def _loss(function, log_ratio, advantages, **options):
    logprobs = paddle.to_tensor([log_ratio], "float64", stop_gradient=False)
    old, advantages = paddle.zeros([1, 2], "float64"), paddle.to_tensor([advantages], "float64")
    loss = function(logprobs, old, advantages=advantages, mean=ONE, **options)
    loss.value.backward()
    return float(loss.value), logprobs.grad.numpy()[0].tolist(), {k: float(m.value) for k, m in loss.metrics.items()}


def test_a_ratio_of_sequences_is_the_geometric_mean_and_shares_its_gradient():
    """Log-ratios 0.3 and -0.1: ratio e^0.1. Its gradient is that of the mean advantage for each token; with
    sequence_token it is each token's own.
    """
    ratio = np.exp(0.1)
    clip = RatioClip(0.5, 0.5, level="sequence")
    value, gradient, metrics = _loss(ppo_policy_loss, [0.3, -0.1], [1, 3], clip=clip)
    assert value == pytest.approx(-2 * ratio) and gradient == pytest.approx([-ratio, -ratio])
    assert metrics["policy/ratio_mean"] == pytest.approx(ratio) and metrics["policy/approx_kl"] == pytest.approx(-0.1)
    value, gradient, _ = _loss(ppo_policy_loss, [0.3, -0.1], [1, 3], clip=clip._replace(level="sequence_token"))
    assert value == pytest.approx(-2 * ratio) and gradient == pytest.approx([-0.5 * ratio, -1.5 * ratio])


def test_a_ratio_of_sequences_is_clipped_as_one():
    _, gradient, metrics = _loss(ppo_policy_loss, [0.3, -0.1], [1, 1], clip=RatioClip(0.1, 0.1, level="sequence"))
    assert gradient == [0, 0] and metrics["policy/clip_fraction"] == 1


def test_the_dual_clip_counts_what_it_bounds():
    """Ratio 5 with advantage -1: the loss 5 is cut to 3; ratio 2 is not. Without it nothing is counted."""
    logs = [np.log(5), np.log(2)]
    value, gradient, metrics = _loss(ppo_policy_loss, logs, [-1, -1], clip=RatioClip(dual=3.0))
    assert value == pytest.approx(2.5) and gradient == pytest.approx([0, 1])
    assert metrics["policy/dual_clip_fraction"] == 0.5
    assert "policy/dual_clip_fraction" not in _loss(ppo_policy_loss, logs, [-1, -1], clip=RatioClip())[2]


def test_cispo_weighs_log_probs_by_capped_ratios():
    logs = [np.log(4), np.log(0.5)]
    value, gradient, metrics = _loss(cispo_loss, logs, [1, -2], cap=3.0, level="token")
    assert gradient == pytest.approx([-1.5, 0.5]) and value == pytest.approx((-3 * logs[0] + logs[1]) / 2)
    assert metrics["policy/clip_fraction"] == 0.5 and metrics["policy/ratio_max"] == pytest.approx(4)


def test_sapo_fades_the_gradient_by_the_sign_of_the_advantage():
    """The gradient is -A r 4 s (1 - s) with s the sigmoid of t (r - 1)."""
    ratios, advantages, slopes = np.array([2.0, 2.0]), np.array([1.0, -1.0]), np.array([1.0, 3.0])
    gate = 1 / (1 + np.exp(-slopes * (ratios - 1)))
    value, gradient, metrics = _loss(sapo_loss, np.log(ratios), advantages, temperatures=(1.0, 3.0), level="token")
    assert gradient == pytest.approx(-advantages * ratios * 4 * gate * (1 - gate) / 2)
    assert value == pytest.approx((-advantages * 4 / slopes * gate).mean()) and metrics["policy/clip_fraction"] == 0


@pytest.mark.parametrize(
    ("kind", "value", "slope"),
    [
        ("k1", 0.5, 1.0),
        ("k2", 0.125, 0.5),
        ("k3", np.exp(-0.5) - 0.5, 1 - np.exp(-0.5)),
        ("abs", 0.5, 1.0),
        ("k1+", 0.5, 0.5),
        ("k3+", np.exp(-0.5) - 0.5, 0.5),
        ("abs+", 0.5, 0.5),
    ],
)
def test_a_kl_loss_with_a_plus_has_the_gradient_of_k2(kind, value, slope):
    logprobs = paddle.to_tensor([0.5], "float64", stop_gradient=False)
    found = kl_loss(logprobs, paddle.zeros([1], "float64"), kind=kind)
    found.backward()
    assert found.item() == pytest.approx(value) and logprobs.grad.item() == pytest.approx(slope)


@pytest.mark.parametrize(("kind", "slope"), [("k3", 0.0), ("k3+", -3.0)])
def test_a_clamped_kl_loss_keeps_its_gradient_with_a_plus(kind, slope):
    logprobs = paddle.to_tensor([-3.0], "float64", stop_gradient=False)
    found = kl_loss(logprobs, paddle.zeros([1], "float64"), kind=kind, clamp=1.0)
    found.backward()
    assert found.item() == 1.0 and logprobs.grad.item() == pytest.approx(slope)


def test_a_response_has_one_ratio_as_in_trls_rloo(grid, mask, same):
    """By hand: the loss of a row is max(-A r, -A clip(r)) with the ratio r of its whole probability."""
    x, old, advantages = grid(0, scale=0.1, grad=True), grid(1, scale=0.1), grid(2)[:, :1].expand_as(mask)
    clip = RatioClip(0.2, 0.2, level="sequence_product")
    loss = ppo_policy_loss(x, old, advantages=advantages, clip=clip, mean=TokenMean(mask, 5.0, "sequence"))
    loss.value.backward()
    m, a = mask.numpy(), advantages.numpy()[:, 0]
    ratio = np.exp(((x.numpy() - old.numpy()) * m).sum(-1))
    rows = np.maximum(-a * ratio, -a * ratio.clip(0.8, 1.2))
    is_free = -a * ratio >= -a * ratio.clip(0.8, 1.2)
    assert 0 < is_free.sum() < len(rows), "some are clipped and some are not"
    same(loss.value, rows[m[:, 0] > 0].sum() / 5)
    # The loss of each of n equal tokens is 1 / n of the row's, and each has the gradient by every token's log-prob.
    same(x.grad, (-a * ratio * is_free / 5)[:, None] * m)
