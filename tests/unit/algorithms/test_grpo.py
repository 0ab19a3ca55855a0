"""GRPO against values worked out by hand and against a reference in numpy."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from alignment.algorithms.advantages import degenerate_groups
from alignment.algorithms.on_policy.critic_free.grpo import GRPO, GRPOHyperparameters
from alignment.algorithms.on_policy.spec import Judged

PROMPTS, SAMPLES, WIDTH = 5, 4, 6
LENGTHS = np.random.default_rng(3).integers(1, WIDTH + 1, PROMPTS * SAMPLES)
MASK = (np.arange(WIDTH) < LENGTHS[:, None]).astype(np.float64)
IDS = np.repeat(np.arange(PROMPTS), SAMPLES)


def _draw(seed):
    return np.random.default_rng(seed).standard_normal(MASK.shape)


def _judge(scores, *, with_reference=True, mask=MASK, ids=IDS):
    grids = {"old_logprobs": paddle.to_tensor(_draw(0)), "ref_logprobs": paddle.to_tensor(_draw(1))}
    if not with_reference:
        del grids["ref_logprobs"]
    return Judged(paddle.to_tensor(scores), mask=paddle.to_tensor(mask), group_ids=paddle.to_tensor(ids), **grids)


def _reference(scores, scale, kl_coeff):
    """Loop over groups, as the paper writes it; the std is the sample one."""
    totals = scores - kl_coeff * ((_draw(0) - _draw(1)) * MASK).sum(-1)
    advantages = np.zeros(len(totals))
    for group in np.unique(IDS):
        members = totals[group == IDS]
        spread = {"group": members.std(ddof=1) + 1e-6, "batch": totals.std(ddof=1) + 1e-6, "none": 1.0}[scale]
        advantages[group == IDS] = (members - members.mean()) / spread
    return advantages[:, None] * MASK


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
@pytest.mark.parametrize("kl_coeff", [0.0, 0.3])
def test_advantages_are_those_of_a_loop_over_groups(scale, kl_coeff, same):
    scores = np.random.default_rng(7).standard_normal(len(IDS))
    hyperparameters = GRPOHyperparameters(scale_rewards=scale, kl_coeff=kl_coeff)
    estimate = GRPO.estimate(_judge(scores), hyperparameters=hyperparameters)
    same(estimate.advantages, _reference(scores, scale, kl_coeff))
    assert estimate.returns is None and (estimate.kl_rewards is None) == (kl_coeff == 0)


def test_two_groups_by_hand(same):
    """Scores 1, 3 and 5, 5: the first pair lies 1 from its mean and has the sample std sqrt(2), the second learns
    nothing.
    """
    mask = np.array([[1.0, 1.0], [1.0, 0.0], [1.0, 1.0], [1.0, 1.0]])
    grid = paddle.zeros(mask.shape, "float64")
    judged = Judged(paddle.to_tensor([1.0, 3, 5, 5]), grid, paddle.to_tensor(mask), paddle.to_tensor([4, 4, 9, 9]))
    estimate = GRPO.estimate(judged, hyperparameters=GRPOHyperparameters())
    high = 1 / (np.sqrt(2) + 1e-6)
    np.testing.assert_allclose(estimate.advantages, [[-high, -high], [high, 0], [0, 0], [0, 0]], rtol=1e-6)
    np.testing.assert_array_equal(estimate.rewards, [[0, 1], [3, 0], [0, 5], [0, 5]])
    found = {name: metric.value for name, metric in estimate.metrics.items()}
    assert found == {"reward/degenerate_groups": 1.0, "reward/degenerate_share": 0.5}


def test_rewards_are_not_cut_and_the_reference_is_not_needed_without_a_kl():
    scores = np.array([100.0, -100.0] * 10)
    hyperparameters = GRPOHyperparameters(scale_rewards="none", kl_loss_coeff=0.0)
    assert not GRPO.needs_reference(hyperparameters)
    estimate = GRPO.estimate(_judge(scores, with_reference=False), hyperparameters=hyperparameters)
    np.testing.assert_array_equal(estimate.advantages, scores[:, None] * MASK)
    for weighted in ({"kl_coeff": 0.1, "kl_loss_coeff": 0.0}, {"kl_loss_coeff": 0.1}):
        assert GRPO.needs_reference(GRPOHyperparameters(**weighted))


def test_whitened_advantages_have_mean_0_and_variance_1_over_tokens():
    scores = np.random.default_rng(8).standard_normal(len(IDS))
    estimate = GRPO.estimate(_judge(scores), hyperparameters=GRPOHyperparameters(normalize_advantage=True))
    tokens = estimate.advantages.numpy()[MASK > 0]
    assert tokens.mean() == pytest.approx(0, abs=1e-9) and tokens.var(ddof=1) == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize("scale", ["group", "batch"])
def test_a_row_whose_reward_failed_is_no_member_of_a_group(scale):
    scores = np.array([1.0, 3.0, 1e6, 2.0, 5.0])
    mask = np.ones([5, 2])
    mask[2] = 0
    grid = paddle.zeros(mask.shape, "float64")
    ids = paddle.to_tensor([0, 0, 0, 1, 1])
    options = {"hyperparameters": GRPOHyperparameters(scale_rewards=scale)}
    estimate = GRPO.estimate(Judged(paddle.to_tensor(scores), grid, paddle.to_tensor(mask), ids), **options)
    kept = [0, 1, 3, 4]
    alone = Judged(paddle.to_tensor(scores[kept]), grid[:4], paddle.ones([4, 2], "float64"), ids[[0, 1, 3, 4]])
    np.testing.assert_allclose(estimate.advantages[kept], GRPO.estimate(alone, **options).advantages, rtol=1e-12)
    assert not estimate.advantages[2].numpy().any()


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_the_only_row_of_its_group_whose_reward_did_not_fail_teaches_nothing(scale):
    mask = paddle.to_tensor([[1.0, 1.0], [0.0, 0.0], [1.0, 1.0], [1.0, 1.0]])
    judged = Judged(paddle.to_tensor([5.0, 1.0, 2.0, 3.0]), paddle.zeros([4, 2]), mask, paddle.to_tensor([0, 0, 1, 1]))
    advantages = GRPO.estimate(judged, hyperparameters=GRPOHyperparameters(scale_rewards=scale)).advantages.numpy()
    assert not advantages[:2].any()
    assert (advantages[2] < 0).all()
    assert (advantages[3] > 0).all()


def test_degenerate_groups_are_counted_among_those_that_have_members():
    scores, ids = paddle.to_tensor([0.1, 0.1, 0.1, 2.0, 3.0, 9.0, 9.0]), paddle.to_tensor([0, 0, 0, 1, 1, 2, 2])
    mask = paddle.to_tensor([True, True, True, True, True, False, False])
    found = degenerate_groups(scores, ids, mask=mask)
    assert [m.value for m in found.values()] == [1.0, 0.5]
    assert [m.value for m in degenerate_groups(scores, ids).values()] == pytest.approx([2.0, 2 / 3])


def _loss(logprobs, fields, denominator=1.0, entropy=None, **chosen):
    options = {"hyperparameters": GRPOHyperparameters(**chosen), "denominator": denominator}
    return GRPO.policy_loss(logprobs, fields, entropy=entropy, **options)


@pytest.mark.parametrize("reduction", ["token", "sequence", "constant"])
def test_the_loss_is_the_clipped_one_plus_k3(reduction):
    new, old, ref, advantages = (0.3 * _draw(seed) for seed in (11, 12, 13, 14))
    ratio, gap = np.exp(new - old), 0.3 * (_draw(13) - _draw(11))
    clipped = np.maximum(-advantages * ratio, -advantages * np.clip(ratio, 0.8, 1.3))
    by_token = 0.5 * clipped + 0.25 * (np.exp(gap) - 1 - gap)
    by_row = (by_token * MASK).sum(-1)
    lengths = {"token": MASK.sum() / len(MASK), "sequence": MASK.sum(-1), "constant": 11}[reduction]
    expected = (by_row / lengths).mean()
    grids = {"old_logprobs": old, "ref_logprobs": ref, "advantages": advantages, "response_mask": MASK}
    fields = {name: paddle.to_tensor(grid) for name, grid in grids.items()}
    chosen = {"policy_loss_reduction": reduction, "kl_loss_coeff": 0.25, "pg_loss_coeff": 0.5, "loss_length": 11}
    units = GRPO.count_units(MASK, hyperparameters=GRPOHyperparameters(policy_loss_reduction=reduction))
    assert units == (MASK.sum() if reduction == "token" else len(MASK))
    loss = _loss(paddle.to_tensor(new), fields, units, clip_range_ratio_high=0.3, **chosen)
    assert float(loss.value) == pytest.approx(expected, rel=1e-6)
    share = (np.exp(gap) - 1 - gap) * MASK
    mean = share.sum() / MASK.sum() if reduction == "token" else (share.sum(-1) / MASK.sum(-1)).mean()
    assert float(loss.metrics["policy/kl_loss"].value) == pytest.approx(mean, rel=1e-6)


def test_the_kl_of_a_token_is_cut_and_then_has_no_gradient():
    one = paddle.ones([1, 1], "float64")
    fields = {"old_logprobs": -5 * one, "ref_logprobs": 0 * one, "advantages": 0 * one, "response_mask": one}
    for limit, expected, slope in ((10.0, 10.0, 0.0), (1000.0, np.exp(5) - 6, 1 - np.exp(5))):
        logprobs = paddle.to_tensor([[-5.0]], "float64", stop_gradient=False)
        loss = _loss(logprobs, fields, kl_loss_coeff=1.0, clip_range_score=limit)
        loss.value.backward()
        assert float(loss.value) == pytest.approx(expected) and logprobs.grad.item() == pytest.approx(slope)


def test_importance_weights_and_entropy():
    one = paddle.ones([1, 1], "float64")
    fields = {"old_logprobs": 0 * one, "advantages": 2 * one, "response_mask": one, "importance_weights": 0.5 * one}
    loss = _loss(0 * one, fields, entropy=3 * one, entropy_coeff=0.1, kl_loss_coeff=0.0)
    assert float(loss.value) == pytest.approx(-2 * 0.5 - 0.3)
    assert set(loss.metrics) >= {"policy/loss", "policy/entropy"} and "policy/kl_loss" not in loss.metrics
