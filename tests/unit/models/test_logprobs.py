"""The one shift by one, on the worked example of TokenBatch and against full logits."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from alignment.models.decoder.logprobs import (
    graded_logprobs,
    policy_logprobs,
    predicting_hidden,
    smoothed_logprobs,
    to_grid,
    token_values,
)
from alignment.models.decoder.score_model import ScoreOptions
from alignment.records import TokenBatch
from tests.tiny_models import tiny_causal, tiny_score

SEQUENCES = [np.array([5, 6, 7, 2]), np.array([1, 2, 3, 4, 5, 6]), np.array([9, 9])]
PLACES = [np.array([2, 3]), np.array([3, 4, 5]), np.array([1])]
BATCH = TokenBatch.build(SEQUENCES, PLACES)


@pytest.fixture(scope="module")
def model():
    return tiny_causal(std=0.5)


def full_logprobs(model, temperature):
    """log-probs [n, S, V] from the whole model, one sequence at a time."""
    with paddle.no_grad():
        return [F.log_softmax(model(s[None])[0] / temperature).numpy() for s in SEQUENCES]


def test_states_are_read_one_position_before_the_token():
    body = SimpleNamespace(at=lambda batch, *places: np.stack(places, axis=1))
    model = SimpleNamespace(model=body, kind="score")
    assert predicting_hidden(model, BATCH).tolist() == [[0, 1], [0, 2], [1, 2], [1, 3], [1, 4], [2, 0]]


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_logprobs_and_entropy(model, temperature):
    logprobs, entropy = policy_logprobs(model, BATCH, temperature=temperature, with_entropy=True)
    full = full_logprobs(model, temperature)
    expected = [full[row][place - 1, SEQUENCES[row][place]] for row in range(3) for place in PLACES[row]]
    np.testing.assert_allclose(logprobs.numpy(), expected, atol=1e-5)
    rows = [full[row][place - 1] for row in range(3) for place in PLACES[row]]
    np.testing.assert_allclose(entropy.numpy(), [-(np.exp(r) * r).sum() for r in rows], atol=1e-5)
    assert logprobs.dtype == entropy.dtype == paddle.float32


def test_without_entropy(model):
    assert policy_logprobs(model, BATCH, temperature=1.0, with_entropy=False)[1] is None


def test_targets_that_are_the_likeliest_token_are_marked(model):
    first = np.array([5, 6, full_logprobs(model, 1.0)[0][1].argmax(), 3])
    batch = TokenBatch.build([first], [np.array([2, 3])])
    logprobs, marks = graded_logprobs(model, batch)
    with paddle.no_grad():
        full = F.log_softmax(model(first[None])[0]).numpy()
    assert marks.tolist() == [1.0, float(full[2].argmax() == 3)] == [1.0, 0.0]
    np.testing.assert_allclose(logprobs.numpy(), [full[1].max(), full[2][3]], atol=1e-5)


@pytest.mark.parametrize("tied", [False, True])
def test_log_probs_averaged_over_the_vocabulary(tied):
    """Label smoothing as torch and Hugging Face have it, against Paddle's cross-entropy with soft labels."""
    model = tiny_causal(std=0.5, tie_word_embeddings=tied)
    logprobs, averages = smoothed_logprobs(model, BATCH)
    smoothed = -(0.9 * logprobs + 0.1 * averages).sum()
    smoothed.backward()
    found = {name: p.grad.numpy().copy() for name, p in model.named_parameters()}
    model.clear_gradients()
    logits = model(BATCH.input_ids, lengths=BATCH.lengths)
    rows = paddle.gather_nd(logits, paddle.to_tensor(np.stack([BATCH.target_rows, BATCH.target_positions - 1], 1)))
    labels = F.label_smooth(F.one_hot(paddle.to_tensor(BATCH.target_ids), rows.shape[1]), epsilon=0.1)
    expected = F.cross_entropy(rows, labels, soft_label=True, reduction="sum")
    expected.backward()
    assert float(smoothed) == pytest.approx(float(expected), rel=1e-6)
    np.testing.assert_allclose(averages.numpy(), F.log_softmax(rows).mean(axis=-1).numpy(), atol=1e-5)
    for name, parameter in model.named_parameters():
        np.testing.assert_allclose(found[name], parameter.grad.numpy(), rtol=1e-4, atol=3e-5, err_msg=name)


def test_logprobs_carry_gradients(model):
    logprobs, _ = policy_logprobs(model, BATCH, temperature=1.0, with_entropy=False)
    logprobs.sum().backward()
    for name, parameter in model.named_parameters():
        assert abs(parameter.grad.numpy()).max() > 0, name
    model.clear_gradients()


def test_grid_places_and_gradient():
    flat = paddle.to_tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], stop_gradient=False)
    grid = to_grid(flat, BATCH)
    assert grid.tolist() == [[1, 2, 0], [3, 4, 5], [6, 0, 0]]
    assert np.array_equal(grid.numpy() != 0, BATCH.response_mask > 0)
    (grid * paddle.arange(9, dtype="float32").reshape([3, 3])).sum().backward()
    assert flat.grad.tolist() == [0, 1, 3, 4, 5, 6]


def test_values_are_read_before_the_token():
    critic = tiny_score(ScoreOptions(score_type="critic"), std=0.5)
    values = token_values(critic, BATCH)
    with paddle.no_grad():
        rows = [critic.score(critic.model(s[None]))[0, :, 0].numpy() for s in SEQUENCES]
    expected = np.zeros((3, 3), np.float32)
    for row, places in enumerate(PLACES):
        expected[row, : len(places)] = rows[row][places - 1]
    np.testing.assert_allclose(values.numpy(), expected, atol=1e-5)
    values.sum().backward()
    for name, parameter in critic.named_parameters():
        assert abs(parameter.grad.numpy()).max() > 0, name


def test_a_batch_without_targets_is_a_mistake(model):
    batch = TokenBatch.build(SEQUENCES, [np.empty(0, np.int64)] * 3)
    with pytest.raises(AssertionError):
        policy_logprobs(model, batch, temperature=1.0, with_entropy=False)
