"""The coefficient of the entropy bonus rises while the entropy is low, and is applied only then."""

from __future__ import annotations

import json

import pytest

from alignment.algorithms.adaptive_entropy import AdaptiveEntropy


def _controller(**chosen):
    return AdaptiveEntropy(
        **{"coefficient": 0.0, "target": 0.2, "step": 0.005, "minimum": 0.0, "maximum": 0.012} | chosen
    )


def test_coefficients_by_hand():
    """Applied from the update after the first low entropy; at the target it still rises, and limits hold."""
    entropy, applied, coefficients = _controller(), [], []
    for seen in (0.5, 0.2, 0.1, 0.1, 0.3, 0.1):
        applied.append(entropy.applied)
        entropy.observe(seen)
        coefficients.append(entropy.coefficient)
    assert coefficients == pytest.approx([0.0, 0.005, 0.01, 0.012, 0.007, 0.012])
    assert applied == pytest.approx([0.0, 0.0, 0.005, 0.01, 0.012, 0.0])


def test_a_restored_one_goes_on_as_the_other():
    entropy, fresh = _controller(coefficient=0.003), _controller()
    assert entropy.applied == 0, "nothing is known before the first update"
    fresh.load_state(json.loads(json.dumps(entropy.state())))
    assert fresh == entropy
    entropy.observe(0.1)
    fresh.load_state(json.loads(json.dumps(entropy.state())))
    assert fresh == entropy and fresh.applied == pytest.approx(0.008)
