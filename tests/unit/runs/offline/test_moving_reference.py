"""A reference that follows the policy: when, to which weights, and what a checkpoint holds of it."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from alignment.arguments.keys.reference_model import Movement, ReferenceModelArguments
from alignment.errors import ArgumentError
from alignment.parallel.topology import Topology
from alignment.runs.models import freeze
from alignment.runs.offline.moving_reference import MovingReference, check_same_shapes
from alignment.runs.placed import place
from tests.tiny_models import tiny_causal

SHAPE = {"vocab_size": 32, "hidden_size": 16}


def moving(movement, *, offload=False):
    reference = freeze(tiny_causal(seed=1, **SHAPE))
    topology = Topology(device="cpu")
    placed = place("reference", reference, topology, offload=offload)
    return MovingReference(placed=placed, movement=movement, tokenizer=None, topology=topology)


def learner_of(model, updates):
    return SimpleNamespace(num_updates=updates, kept_weights=model.named_parameters, offloaded_model=None)


def numbers(model):
    return {name: p.numpy().copy() for name, p in model.named_parameters()}


@pytest.mark.parametrize(("share", "rate"), [(1.0, 1.0), (0.25, 0.25)])
def test_the_weights_move_at_multiples_of_the_steps_by_the_share_of_the_policy(share, rate):
    policy, reference = tiny_causal(seed=2, **SHAPE), moving(Movement(3, share))
    own, other = numbers(reference.placed.runner.model), numbers(policy)
    for updates in (1, 2):
        reference.follow(learner_of(policy, updates))
        for name, value in numbers(reference.placed.runner.model).items():
            np.testing.assert_array_equal(value, own[name])
    reference.follow(learner_of(policy, 3))
    for name, value in numbers(reference.placed.runner.model).items():
        np.testing.assert_allclose(value, rate * other[name] + (1 - rate) * own[name], rtol=1e-6)
    assert all(p.stop_gradient for p in reference.placed.runner.model.parameters())


def test_an_offloaded_reference_moves_and_is_a_copy(tmp_path):
    policy, reference = tiny_causal(seed=2, **SHAPE), moving(Movement(1, 1.0), offload=True)
    expected = numbers(policy)
    reference.follow(learner_of(policy, 1))
    for parameter in policy.parameters():
        parameter.set_value(parameter * 0)
    reference.placed.offloaded.enter()
    for name, value in numbers(reference.placed.runner.model).items():
        np.testing.assert_array_equal(value, expected[name])


def test_a_reference_of_another_shape_is_refused_by_name():
    check_same_shapes(tiny_causal(seed=1, **SHAPE), tiny_causal(seed=2, **SHAPE), "folder")
    with pytest.raises(ArgumentError) as raised:
        check_same_shapes(tiny_causal(seed=1, **{**SHAPE, "hidden_size": 8}), tiny_causal(seed=1, **SHAPE), "folder")
    assert str(raised.value).startswith(
        "ref_model_name_or_path=folder cannot follow the policy (ref_model_update_steps, sync_ref_model): "
    )


def test_steps_and_shares_of_the_keys():
    movement = lambda **keys: ReferenceModelArguments(**keys).movement  # noqa: E731
    assert movement() is None
    assert movement(ref_model_update_steps=7) == (7, 1.0)
    assert movement(sync_ref_model=True) == (512, 0.6), "TRL's defaults"
    assert movement(sync_ref_model=True, ref_model_sync_steps=9, ref_model_mixup_alpha=0.5) == (9, 0.5)
