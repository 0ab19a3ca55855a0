"""Pairs: spans, regularisation, metrics, micro-batches."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from alignment.algorithms.bradley_terry import BradleyTerryHyperparameters, bradley_terry_loss
from alignment.algorithms.cost_model import cost_model_loss
from alignment.algorithms.preference_losses import first_difference, sequence_preference_loss
from alignment.errors import DataError
from alignment.metrics import reduce_metrics


@pytest.mark.parametrize(
    ("better", "worse", "lengths", "expected"),
    [
        ([5, 6, 7, 2], [5, 6, 8, 2], (4, 4), 2),
        ([5, 6, 2, 2], [5, 6, 2, 2], (3, 4), 3),
        ([5, 6, 2, 0], [5, 6, 2, 7], (3, 4), 3),
        ([9, 6, 2, 0], [5, 6, 2, 0], (3, 3), 0),
    ],
)
def test_first_difference(better, worse, lengths, expected):
    """The second case: padding equals a real token, only the lengths tell them apart."""
    arrays = np.array([better]), np.array([worse])
    sizes = {"better_lengths": np.array(lengths[:1]), "worse_lengths": np.array(lengths[1:])}
    assert first_difference(*arrays, **sizes).tolist() == [expected]


def test_identical_pair_is_refused_with_its_row():
    ids = np.array([[1, 2, 3], [1, 2, 0]])
    other = np.array([[1, 2, 4], [1, 2, 9]])
    with pytest.raises(DataError, match=r"\[1\]"):
        first_difference(ids, other, better_lengths=np.array([3, 2]), worse_lengths=np.array([3, 2]))


def batch(seed=0):
    rng = np.random.default_rng(seed)
    better, worse = (paddle.to_tensor(rng.standard_normal((4, 6)), stop_gradient=False) for _ in range(2))
    ends = {"better_ends": [5, 2, 3, 4], "worse_ends": [3, 4, 3, 5], "first_difference": [1, 2, 3, 0]}
    ends["answer_starts"] = [1, 2, 1, 0]
    return better, worse, {name: paddle.to_tensor(values) for name, values in ends.items()}


def run(better, worse, fields, part, loss_type):
    options = BradleyTerryHyperparameters(loss_type=loss_type, regularization=0.1)
    fields = {name: values[part] for name, values in fields.items()}
    return bradley_terry_loss(better[part], worse[part], fields=fields, hyperparameters=options, denominator=4)


@pytest.mark.parametrize("loss_type", ["sequence-wise", "token-wise", "logexp", "average"])
def test_micro_batches_add_up(loss_type):
    better, worse, fields = batch()
    whole = run(better, worse, fields, slice(None), loss_type)
    parts = [run(better, worse, fields, part, loss_type) for part in (slice(0, 1), slice(1, 4))]
    assert sum(float(part.value) for part in parts) == pytest.approx(float(whole.value), abs=1e-12)
    assert reduce_metrics([part.metrics for part in parts]) == pytest.approx(reduce_metrics([whole.metrics]))


@pytest.mark.parametrize("loss_type", ["sequence-wise", "token-wise"])
def test_gradient_stays_inside_the_compared_span(loss_type):
    better, worse, fields = batch()
    run(better, worse, fields, slice(None), loss_type).value.backward()
    for row in range(4):
        first, last = (
            int(fields["first_difference"][row]),
            max(int(fields[f"{s}_ends"][row]) for s in ("better", "worse")),
        )
        moved = np.flatnonzero(better.grad.numpy()[row])
        expected = range(first, last + 1) if loss_type == "token-wise" else [int(fields["better_ends"][row])]
        assert moved.tolist() == list(expected)


def test_conventions_differ_by_two():
    plain, ours, theirs = (
        one_pair([0, 3.0], [0, 1.0], regularization=weight, regularization_convention=convention)[0]
        for weight, convention in ((0.0, "safe-rlhf"), (0.1, "safe-rlhf"), (0.1, "paddlenlp"))
    )
    assert ours - plain == pytest.approx(0.1 * (9 + 1) / 2)
    assert theirs - plain == pytest.approx(0.1 * (9 + 1))


def test_tie_is_wrong_and_large_margins_are_finite():
    scores = paddle.to_tensor([0.0, 1e4, -1e4], stop_gradient=False)
    loss = sequence_preference_loss(scores, paddle.zeros([3]), denominator=3)
    loss.value.backward()
    assert float(loss.metrics["preference/accuracy"].value) == pytest.approx(1 / 3)
    assert np.isfinite(float(loss.value)) and np.isfinite(scores.grad.numpy()).all()


@pytest.mark.parametrize("loss_type", ["sequence-wise", "token-wise"])
def test_cost_model_squares_follow_the_convention(loss_type):
    safer, unsafer, fields = batch()
    ones = paddle.ones([4], dtype="float64")
    fields = {
        "safer_ends": fields["better_ends"],
        "unsafer_ends": fields["worse_ends"],
        "first_difference": fields["first_difference"],
        "safer_safety_sign": ones,
        "unsafer_safety_sign": -ones,
    }

    def value(weight, convention):
        options = {"loss_type": loss_type, "regularization": weight, "regularization_convention": convention}
        hyperparameters = BradleyTerryHyperparameters(**options)
        return float(
            cost_model_loss(safer, unsafer, fields=fields, hyperparameters=hyperparameters, denominator=4).value
        )

    plain = value(0.0, "paddlenlp")
    assert value(0.1, "paddlenlp") - plain == pytest.approx(2 * (value(0.1, "safe-rlhf") - plain))
    assert value(0.1, "safe-rlhf") > plain


def test_cost_gradients_push_towards_the_labels():
    """Both answers safe: both costs go down, the safer one further."""
    costs = [paddle.zeros([1, 1], dtype="float64") for _ in range(2)]
    for cost in costs:
        cost.stop_gradient = False
    zero, one = paddle.zeros([1], dtype="int64"), paddle.ones([1], dtype="float64")
    fields = {"safer_ends": zero, "unsafer_ends": zero, "safer_safety_sign": one, "unsafer_safety_sign": one}
    options = {"hyperparameters": BradleyTerryHyperparameters(), "denominator": 1}
    cost_model_loss(*costs, fields=fields, **options).value.backward()
    assert [cost.grad.item() for cost in costs] == pytest.approx([1.0, 0.0])


def one_pair(better, worse, **options):
    """The loss of a pair with two scores a side, ending at the second, and its gradients."""
    scores = [paddle.to_tensor([side], dtype="float64", stop_gradient=False) for side in (better, worse)]
    fields = {name: paddle.to_tensor([1]) for name in ("better_ends", "worse_ends")}
    fields |= {"first_difference": paddle.to_tensor([0]), "margin": paddle.to_tensor([0.75], dtype="float64")}
    loss = bradley_terry_loss(
        *scores, fields=fields, hyperparameters=BradleyTerryHyperparameters(**options), denominator=1
    )
    loss.value.backward()
    return float(loss.value), [side.grad.numpy()[0] for side in scores]


def softplus(x):
    return np.log1p(np.exp(x))


@pytest.mark.parametrize("loss_type", ["sequence-wise", "logexp"])
def test_centring_is_trls_squared_sum_of_both_scores(loss_type):
    """TRL 1.16: loss += coefficient * mean((chosen + rejected) ** 2)."""
    value, (better, worse) = one_pair([9.0, 2.0], [9.0, -0.5], loss_type=loss_type, center_rewards_coefficient=0.01)
    pushed = 1 / (1 + np.exp(2.5))
    assert value == pytest.approx(softplus(-2.5) + 0.01 * 1.5**2)
    np.testing.assert_allclose(better, [0, -pushed + 0.01 * 2 * 1.5])
    np.testing.assert_allclose(worse, [0, pushed + 0.01 * 2 * 1.5])


def test_token_wise_margins_and_centring_are_means_over_the_compared_tokens():
    value, _ = one_pair(
        [1.0, 2.0], [0.5, -0.5], loss_type="token-wise", margin_loss=True, center_rewards_coefficient=0.1
    )
    tokens = [softplus(-(0.5 - 0.75)) + 0.1 * 1.5**2, softplus(-(2.5 - 0.75)) + 0.1 * 1.5**2]
    assert value == pytest.approx(np.mean(tokens))


def test_a_margin_is_used_where_it_is_asked_for():
    """OpenRLHF's logexp has none."""
    assert one_pair([0, 2.0], [0, 1.0], margin_loss=True)[0] == pytest.approx(softplus(-0.25))
    assert one_pair([0, 2.0], [0, 1.0])[0] == pytest.approx(softplus(-1.0))
    assert one_pair([0, 2.0], [0, 1.0], margin_loss=True, loss_type="logexp")[0] == pytest.approx(softplus(-1.0))


def test_averages_over_each_answer_are_compared():
    """The answers are tokens 1 to 2 of the better row and 1 of the worse one."""
    better, worse = (paddle.to_tensor([row], stop_gradient=False) for row in ([9.0, 1.0, 4.0], [9.0, 0.5, 7.0]))
    fields = {"better_ends": paddle.to_tensor([2]), "worse_ends": paddle.to_tensor([1])}
    fields["answer_starts"] = paddle.to_tensor([1, 1])
    options = {"hyperparameters": BradleyTerryHyperparameters(loss_type="average"), "denominator": 1}
    loss = bradley_terry_loss(better, worse, fields=fields, **options)
    loss.value.backward()
    pushed = 1 / (1 + np.exp(2.0))
    assert float(loss.value) == pytest.approx(softplus(-2.0))
    assert float(loss.metrics["preference/margin"].value) == 2.0
    np.testing.assert_allclose(better.grad.numpy(), [[0, -pushed / 2, -pushed / 2]], rtol=1e-5)
    np.testing.assert_allclose(worse.grad.numpy(), [[0, pushed, 0]], rtol=1e-5)
