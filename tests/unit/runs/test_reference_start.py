"""Where the weights of the reference come from, and a copy that stays as it is."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import paddle
import pytest

from alignment.errors import ArgumentError
from alignment.models.decoder.placement import WHOLE
from alignment.runs.reference_start import frozen_copy, is_policys_start
from tests.tiny_models import tiny_causal


def _launch(asked, checkpoint=None):
    start = SimpleNamespace(reference_from_policy=asked)
    return SimpleNamespace(parsed=SimpleNamespace(reference_start=start), checkpoint=checkpoint)


@pytest.mark.parametrize(
    ("asked", "obstacle", "checkpoint", "expected"),
    [
        ("auto", None, None, True),
        (True, None, None, True),
        (False, None, None, False),
        ("auto", "another model", None, False),
        ("auto", None, object(), False),
        (True, None, object(), False),
    ],
)
def test_the_policy_is_the_reference_where_both_start_from_one_model(asked, obstacle, checkpoint, expected, caplog):
    assert is_policys_start(_launch(asked, checkpoint), obstacle, how="copied") == expected
    line = "the reference is the model that training starts from: copied (reference_from_policy)"
    assert caplog.messages == [line] * expected


@pytest.mark.parametrize("checkpoint", [None, object()])
def test_the_weights_of_another_model_are_refused(checkpoint):
    with pytest.raises(ArgumentError, match="reference_from_policy=true cannot be: another. Allowed: auto, false"):
        is_policys_start(_launch(True, checkpoint), "another", how="copied")


@pytest.mark.parametrize("changes", [{}, {"tie_word_embeddings": True}])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_copy_has_the_same_weights_and_keeps_them(changes, dtype):
    policy = tiny_causal(dtype=dtype, **changes)
    before = {name: weight.astype("float32").numpy() for name, weight in policy.named_parameters()}
    copy = frozen_copy(policy, WHOLE, dtype=dtype)
    with paddle.no_grad():
        for weight in policy.parameters():
            paddle.assign(paddle.full_like(weight, 7.0), weight)
    found = dict(copy.named_parameters())
    assert found.keys() == before.keys() and not copy.training
    for name, weight in found.items():
        assert weight.stop_gradient and str(weight.dtype) == f"paddle.{dtype}"
        np.testing.assert_array_equal(weight.astype("float32").numpy(), before[name], err_msg=name)
