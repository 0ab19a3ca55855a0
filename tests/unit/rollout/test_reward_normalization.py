"""The running normalizer equals the moments of everything seen so far."""

import numpy as np

from alignment.rollout.rewards.reward_normalization import RunningRewardNormalizer


def test_running_moments_equal_those_of_all_rewards_so_far():
    normalizer, seen = RunningRewardNormalizer(), []
    for batch in ([1.0, 2.0, 4.0], [10.0], [-3.0, 0.5]):
        seen += batch
        normalized = normalizer(np.array(batch))
        expected = (np.array(batch) - np.mean(seen)) / (np.std(seen, ddof=1) + 1e-8)
        np.testing.assert_allclose(normalized, expected, rtol=1e-5)


def test_state_round_trip():
    first, second = RunningRewardNormalizer(), RunningRewardNormalizer()
    first(np.array([1.0, 5.0]))
    second.load_state(first.state())
    np.testing.assert_array_equal(first(np.array([2.0, 3.0])), second(np.array([2.0, 3.0])))


def test_no_rewards_leave_the_statistics_as_they_are():
    normalizer = RunningRewardNormalizer()
    assert normalizer(np.zeros(0, np.float32)).shape == (0,)
    assert normalizer.state() == [0.0, 0.0, 0]
    normalizer(np.array([1.0, 5.0]))
    normalizer(np.zeros(0, np.float32))
    assert normalizer.state() == [3.0, 8.0, 2]
